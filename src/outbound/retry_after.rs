//! The `Retry-After` header.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use httpdate::parse_http_date;

/// How long the endpoint asks to wait: `retry-after-ms`, else `Retry-After` in seconds or as a date
/// (RFC 9110, section 10.2.3). A date is by the endpoint's own clock, which `Date` tells, and which
/// may differ from the local one.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let header = |name| headers.get(name)?.to_str().ok().map(str::trim);
    if let Some(millis) = header("retry-after-ms").and_then(|value| value.parse().ok()) {
        return Some(Duration::from_millis(millis));
    }
    let value = header("retry-after")?;
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = parse_http_date(value).ok()?;
    let now = header("date").and_then(|value| parse_http_date(value).ok());
    Some(date.duration_since(now.unwrap_or_else(SystemTime::now)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use http::HeaderValue;

    use super::*;

    #[test]
    fn seconds_dates_and_nonsense() {
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
            let mut headers = HeaderMap::new();
            headers.insert("date", HeaderValue::from_static("Sun, 01 Mar 2026 00:00:00 GMT"));
            headers.insert(name, HeaderValue::from_static(value));
            assert_eq!(retry_after(&headers), expected, "{name}: {value}");
        }
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }

    #[test]
    fn dates_are_by_the_clock_of_the_endpoint() {
        for (after, date, expected) in [
            // Its clock is decades behind, or ahead.
            ("Thu, 01 Jan 1970 00:00:09 GMT", "Thu, 01 Jan 1970 00:00:04 GMT", 5),
            ("Sat, 01 Jan 2101 00:00:09 GMT", "Sat, 01 Jan 2101 00:00:04 GMT", 5),
            // It does not tell its time.
            ("Sun, 01 Mar 2026 00:00:07 GMT", "", 0),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("retry-after", HeaderValue::from_static(after));
            headers.insert("date", HeaderValue::from_static(date));
            assert_eq!(retry_after(&headers), Some(Duration::from_secs(expected)), "{after}");
        }
    }
}
