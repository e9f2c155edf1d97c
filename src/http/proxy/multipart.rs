//! The model that a form (`multipart/form-data`, RFC 7578) names: uploads of audio and images have
//! it in a field.

use std::ops::Range;

use axum::http::{HeaderMap, header};

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
    let delimiter = format!("--{boundary}");
    let mut at = find(body, delimiter.as_bytes())? + delimiter.len();
    // Later boundaries begin with a line end.
    let separator = format!("\r\n{delimiter}");
    let mut found = None;
    while let Some(length) = find(&body[at..], separator.as_bytes()) {
        let end = at + length;
        if let Some(head) = find(&body[at..end], b"\r\n\r\n") {
            match kind(&body[at..at + head]) {
                Kind::Other => {}
                _ if found.is_some() => return None,
                Kind::Model => found = Some(Some(at + head + 4..end)),
                Kind::Like => found = Some(None),
            }
        }
        at = end + separator.len();
    }
    found.flatten()
}

enum Kind {
    /// The field `model`.
    Model,
    /// A field that some endpoint may take for it.
    Like,
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
                return Kind::Like;
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
}
