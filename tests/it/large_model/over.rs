//! The same tests over TLS and through proxies, as in production.

use std::process::Command;

use crate::loopback::net::{OVER, Over, Proxy};

/// Tests of plain HTTP only, or of addresses that a proxy does not reach.
const PLAIN_ONLY: [&str; 5] = [
    "large_model::over::",
    "large_model::plain_http_needs_no_root_certificates",
    "large_model::failures::no_server_is_there",
    "large_model::failures::a_peer_that_does_not_finish_connecting",
    "large_model::forwarding::no_server_is_there",
];

fn run(over: Over, proxy: Option<&Proxy>) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg("large_model::").env(OVER, over.name());
    for test in PLAIN_ONLY {
        command.args(["--skip", test]);
    }
    for variable in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
        match proxy {
            Some(proxy) => command.env(variable, proxy.url()),
            None => command.env_remove(variable),
        };
    }
    let output = command.env_remove("NO_PROXY").env_remove("no_proxy").output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && shown.contains(" passed; 0 failed"), "{shown}");
    if let Some(proxy) = proxy {
        assert!(proxy.connections() > 30, "{} connections", proxy.connections());
    }
}

#[test]
fn the_same_over_tls() {
    run(Over::Tls, None);
}

#[test]
fn the_same_through_a_proxy() {
    run(Over::Proxy, Some(&Proxy::start()));
}

#[test]
fn the_same_over_tls_through_a_proxy() {
    run(Over::TlsThroughProxy, Some(&Proxy::start()));
}
