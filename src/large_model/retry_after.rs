//! The `Retry-After` header.

use std::time::{Duration, SystemTime};

use http::HeaderMap;

/// How long the endpoint asks to be left alone: `retry-after-ms`, else `Retry-After` in seconds
/// or as a date (RFC 9110, section 10.2.3; of the dates only the one form that may be sent).
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let header = |name| headers.get(name)?.to_str().ok().map(str::trim);
    if let Some(millis) = header("retry-after-ms").and_then(|value| value.parse().ok()) {
        return Some(Duration::from_millis(millis));
    }
    let value = header("retry-after")?;
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    Some(parse_date(value)?.duration_since(now).unwrap_or_default())
}

/// Parses `Sun, 06 Nov 1994 08:49:37 GMT`.
fn parse_date(text: &str) -> Option<SystemTime> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (_, rest) = text.split_once(", ")?;
    let [day, month, year, time, "GMT"] = rest.split(' ').collect::<Vec<_>>()[..] else {
        return None;
    };
    let [hour, minute, second] = time.split(':').collect::<Vec<_>>()[..] else { return None };
    let number = |text: &str, most: u64| text.parse().ok().filter(|&number: &u64| number <= most);
    let month = MONTHS.iter().position(|&name| name == month)? as u64;
    let days = days_before(number(year, 9_999)?, month)? + number(day, 31)?.checked_sub(1)?;
    let seconds = number(hour, 23)? * 3_600 + number(minute, 59)? * 60 + number(second, 60)?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400 + seconds))
}

/// Days from 1 January 1970 to the first of a month (from 0) of the Gregorian calendar.
fn days_before(year: u64, month: u64) -> Option<u64> {
    const BEFORE: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    year.checked_sub(1970)?;
    // Leap days since the year 1, up to the end of February of the year that counts.
    let counted = if month >= 2 { year } else { year - 1 };
    let leap_days = counted / 4 - counted / 100 + counted / 400;
    const LEAP_DAYS_BEFORE_1970: u64 = 477;
    Some((year - 1970) * 365 + BEFORE[month as usize] + leap_days - LEAP_DAYS_BEFORE_1970)
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

    #[test]
    fn known_dates() {
        for (text, seconds) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
            ("Tue, 29 Feb 2000 12:00:00 GMT", 951_825_600),
            ("Fri, 31 Dec 2100 23:59:59 GMT", 4_133_980_799),
        ] {
            let expected = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(parse_date(text), Some(expected), "{text}");
        }
    }
}
