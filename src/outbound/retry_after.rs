//! The `Retry-After` header.

use std::time::{Duration, SystemTime};

use http::HeaderMap;

/// How long the endpoint asks to wait: `retry-after-ms`, else `Retry-After` in seconds or as a date
/// (RFC 9110, section 10.2.3).
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let header = |name| headers.get(name)?.to_str().ok().map(str::trim);
    if let Some(millis) = header("retry-after-ms").and_then(|value| value.parse().ok()) {
        return Some(Duration::from_millis(millis));
    }
    let value = header("retry-after")?;
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    Some(httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn seconds_dates_and_nonsense() {
        // 2026-03-01 00:00:00 UTC.
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_772_323_200);
        let millis = |ms| Some(Duration::from_millis(ms));
        let table = [
            ("retry-after", "3", millis(3_000)),
            ("retry-after", " 0 ", millis(0)),
            ("retry-after", "1.5", millis(1_500)),
            ("retry-after", "1e400", None),
            ("retry-after-ms", "250", millis(250)),
            ("retry-after", "Sun, 01 Mar 2026 00:00:07 GMT", millis(7_000)),
            ("retry-after", "Sat, 28 Feb 2026 23:59:59 GMT", millis(0)),
            ("retry-after", "Tue, 29 Feb 2028 00:00:00 GMT", millis(730 * 86_400_000)),
            ("retry-after", "Wed, 01 Mar 2028 00:00:00 GMT", millis(731 * 86_400_000)),
            ("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT", millis(0)),
            ("retry-after", "Thu, 01 Jan 1903 00:00:00 GMT", None),
            ("retry-after", "Sun, 01 Mar 2026 00:00:07 CET", None),
            ("retry-after", "Sun, 00 Mar 2026 00:00:07 GMT", None),
            ("retry-after", "Sun, 01 Mar 2026 25:00:07 GMT", None),
            ("retry-after", "soon", None),
            ("retry-after", "-1", None),
            ("retry-after", "", None),
        ];
        for (name, value, expected) in table {
            let headers = HeaderMap::from_iter([(
                http::HeaderName::from_static(name),
                http::HeaderValue::from_static(value),
            )]);
            assert_eq!(retry_after(&headers, now), expected, "{name}: {value}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
