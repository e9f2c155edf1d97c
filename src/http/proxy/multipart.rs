//! What a form (`multipart/form-data`, RFC 7578) asks for: uploads of audio and images name their
//! model in a field.

use std::ops::Range;

use axum::http::{HeaderMap, header};

use crate::http::error::ApiError;

/// Refuses a form whose boundary an endpoint may read otherwise than [`boundary`]: to that
/// endpoint, the form would have other fields.
pub(in crate::http) fn check(headers: &HeaderMap) -> Result<(), ApiError> {
    let kinds = headers.get_all(header::CONTENT_TYPE).iter();
    let kinds: Vec<_> = kinds.map(|kind| String::from_utf8_lossy(kind.as_bytes())).collect();
    let is_form = |kind: &str| kind.to_ascii_lowercase().contains("multipart/");
    let is_clear = match kinds.as_slice() {
        [kind] => is_clear(kind),
        _ => false,
    };
    if is_clear || !kinds.iter().any(|kind| is_form(kind)) {
        return Ok(());
    }
    let message = reason!(
        "the `Content-Type` does not name one boundary";
        hint: "send one header with one `boundary`, of letters, digits and `'()+_,-./:=?`"
    );
    Err(ApiError::bad_request("invalid_body", message))
}

/// Whether all endpoints read the same boundary in a content type, or none.
fn is_clear(kind: &str) -> bool {
    let parameters = kind.split(';').skip(1).filter_map(|parameter| parameter.split_once('='));
    // Also those that begin like `boundary*0=`, of RFC 2231.
    let is_boundary = |name: &str| name.trim().to_ascii_lowercase().starts_with("boundary");
    let mut boundaries = parameters.filter(|(name, _)| is_boundary(name));
    let Some((_, boundary)) = boundaries.next() else { return true };
    if boundaries.next().is_some() {
        return false;
    }
    let boundary = boundary.trim();
    let inner = boundary.strip_prefix('"').map_or(Some(boundary), |rest| rest.strip_suffix('"'));
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&byte);
    inner.is_some_and(|inner| !inner.is_empty() && inner.bytes().all(is_known))
}

/// The boundary of a form, if a request is one.
pub(in crate::http) fn boundary(headers: &HeaderMap) -> Option<String> {
    let kind = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let (kind, parameters) = kind.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let mut parameters = parameters.split(';').filter_map(|parameter| parameter.split_once('='));
    let (_, boundary) =
        parameters.find(|(name, _)| name.trim().eq_ignore_ascii_case("boundary"))?;
    let boundary = boundary.trim().trim_matches('"');
    (!boundary.is_empty()).then(|| boundary.to_owned())
}

/// The range in a form's body with the value of its field `model`. `None` if there is no such
/// field, or more than one that an endpoint might use.
pub(in crate::http) fn model(body: &[u8], boundary: &str) -> Option<Range<usize>> {
    let mut found = None;
    for (head, place) in parts(body, boundary) {
        match kind(head) {
            Kind::Other => {}
            _ if found.is_some() => return None,
            Kind::Model => found = Some(Some(place)),
            Kind::Ambiguous => found = Some(None),
        }
    }
    found.flatten()
}

/// The values of the fields that some endpoint may take for one of `names`.
pub(super) fn values<'a>(
    body: &'a [u8],
    boundary: &str,
    names: &'a [&str],
) -> impl Iterator<Item = &'a [u8]> {
    let is_named = move |head: &[u8]| {
        let head = String::from_utf8_lossy(head).to_ascii_lowercase();
        head.split(['\r', '\n', ';']).filter_map(|parameter| parameter.split_once('=')).any(
            |(name, value)| {
                // A value of RFC 2231 has its character set before it.
                let value = value.trim().trim_matches('"').rsplit('\'').next();
                name.trim().starts_with("name")
                    && value.is_some_and(|it| names.contains(&it.trim()))
            },
        )
    };
    let named = parts(body, boundary).filter(move |(head, _)| is_named(head));
    named.map(move |(_, place)| &body[place])
}

/// The parts of a form: the headers of each, and where its value is.
fn parts<'a>(body: &'a [u8], boundary: &str) -> impl Iterator<Item = (&'a [u8], Range<usize>)> {
    let delimiter = format!("--{boundary}");
    // Later boundaries begin with a line end.
    let separator = format!("\r\n{delimiter}");
    let mut at = find(body, delimiter.as_bytes()).map(|at| at + delimiter.len());
    std::iter::from_fn(move || {
        loop {
            let begin = at?;
            let end = find(&body[begin..], separator.as_bytes()).map(|length| begin + length);
            at = end.map(|end| end + separator.len());
            let end = end?;
            if let Some(head) = find(&body[begin..end], b"\r\n\r\n") {
                return Some((&body[begin..begin + head], begin + head + 4..end));
            }
        }
    })
}

enum Kind {
    /// The field `model`.
    Model,
    /// A field that some endpoint may take for it.
    Ambiguous,
    Other,
}

/// What the headers of a part say.
fn kind(head: &[u8]) -> Kind {
    let head = String::from_utf8_lossy(head);
    for line in head.split(['\r', '\n']) {
        for parameter in line.split(';').map(str::trim) {
            if matches!(parameter, "name=\"model\"" | "name=model") {
                return Kind::Model;
            }
            let parameter = parameter.to_ascii_lowercase();
            if parameter.starts_with("name") && parameter.contains("model") {
                return Kind::Ambiguous;
            }
        }
    }
    Kind::Other
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, what)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use axum::http::HeaderValue;

    use super::*;

    fn model_of(kind: &'static str, body: &str) -> Option<String> {
        let headers =
            HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(kind))]);
        Some(body[model(body.as_bytes(), &boundary(&headers)?)?].to_owned())
    }

    #[test]
    fn the_field_of_a_form() {
        let part = |name: &str, value: &str| {
            format!("--x\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
        };
        let file = "--x\r\ncontent-disposition: form-data; name=\"file\"; filename=\"model\"\r\n\
                    content-type: audio/wav\r\n\r\nname=\"model\"\r\n\r\n--xno\r\n";
        let form = format!("{file}{}{}--x--\r\n", part("model", "whisper-1"), part("n", "1"));
        let kind = "multipart/form-data; boundary=x";
        let table = [
            (kind, form.clone(), Some("whisper-1")),
            ("Multipart/Form-Data; charset=utf-8; boundary=\"x\"", form.clone(), Some("whisper-1")),
            ("multipart/form-data; boundary=y", form.clone(), None),
            ("multipart/form-data", form.clone(), None),
            ("application/json; boundary=x", form, None),
            (kind, part("model", ""), None),
            (kind, format!("{}--x--", part("model", "")), Some("")),
            (kind, format!("{}--x--", part("Model", "m")), None),
            (kind, format!("{}{}--x--", part("model", "a"), part("model", "b")), None),
            (kind, format!("{}{}--x--", part("model", "a"), part("MODEL", "b")), None),
            (kind, String::new(), None),
        ];
        for (kind, body, expected) in table {
            assert_eq!(model_of(kind, &body).as_deref(), expected, "{kind} {body}");
        }
    }

    #[test]
    fn one_boundary_that_all_read_alike() {
        let table: [(&[&'static str], bool); 13] = [
            (&[], true),
            (&["application/json"], true),
            (&["application/json; boundary=a; boundary=b"], true),
            (&["multipart/form-data; charset=utf-8; boundary=\"a (b)\""], true),
            (&["multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW"], true),
            (&["multipart/form-data; boundary=a; boundary=b"], false),
            (&["multipart/form-data; boundary=a; BOUNDARY*=utf-8''b"], false),
            (&["multipart/form-data; boundary=\"a;b\""], false),
            (&["multipart/form-data; boundary=\"a\\b\""], false),
            (&["multipart/form-data; boundary=a\""], false),
            (&["multipart/form-data; x=\"; boundary=a\"; boundary=b"], false),
            (&["multipart/form-data"], true),
            (&["application/json", "multipart/form-data; boundary=b"], false),
        ];
        for (kinds, expected) in table {
            let kinds = kinds.iter().map(|kind| HeaderValue::from_static(kind));
            let mut headers = HeaderMap::new();
            for kind in kinds {
                headers.append(header::CONTENT_TYPE, kind);
            }
            assert_eq!(check(&headers).is_ok(), expected, "{headers:?}");
        }
    }

    #[test]
    fn values_by_any_spelling_of_their_name() {
        let part = |disposition: &str, value: &str| {
            format!("--x\r\nContent-Disposition: form-data; {disposition}\r\n\r\n{value}\r\n")
        };
        let form = [
            part("name=\"n\"", "1"),
            part("name=N", "2"),
            part("name*=utf-8''n", "3"),
            part("name=\"file\"; filename=\"n\"", "4"),
            part("name=\"size\"", "n"),
        ];
        let form = format!("{}--x--\r\n", form.concat());
        let values: Vec<_> = values(form.as_bytes(), "x", &["n", "best_of"]).collect();
        assert_eq!(values, [b"1", b"2", b"3"]);
    }
}
