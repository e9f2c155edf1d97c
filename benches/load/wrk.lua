-- One chat completion, again and again; a line of figures at the end.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"model":"m","messages":[{"role":"user","content":"Where was the president of Grania born?"}]}'

function done(summary, latency, requests)
  local e = summary.errors
  local failed = e.connect + e.read + e.write + e.status + e.timeout
  -- microseconds, microseconds, requests a second, failures
  io.write(string.format("figures %d %d %.0f %d\n", latency:percentile(50), latency:percentile(99),
    summary.requests / summary.duration * 1e6, failed))
end
