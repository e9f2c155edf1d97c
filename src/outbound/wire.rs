//! Request and response types of the endpoint client, and the text of transport errors.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;

/// A request to an endpoint.
pub type Request = http::Request<Bytes>;
/// The response to it.
pub type Response = http::Response<reqwest::Body>;

/// The value of the `User-Agent` header.
pub const USER_AGENT: &str = concat!("prompt-r1/", env!("CARGO_PKG_VERSION"));

/// Header fields of a response; more are no valid HTTP. The client library makes room for all of
/// them in advance, for every response.
pub const MAX_HEADERS: usize = 512;

/// A reused connection that closes within this time without a byte of a response had been closed
/// before, and did not serve the request. One that closes later, or a new one, may have served and
/// billed it.
pub const CLOSED_UNSERVED: Duration = Duration::from_secs(1);

/// What caused an error of the client library, in one line. The error itself is left out: it
/// repeats the URL.
pub fn library_causes(error: &reqwest::Error) -> String {
    error.source().map_or_else(|| error.to_string(), causes)
}

/// An error and what caused it, in one line.
pub fn causes(error: &(dyn Error + 'static)) -> String {
    let mut causes: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(cause) = next {
        let text = cause.to_string();
        // Some causes repeat the text of the next one.
        causes.retain(|earlier| !earlier.ends_with(&text) && !text.contains(earlier.as_str()));
        causes.push(text);
        next = cause.source();
    }
    causes.join(": ")
}

/// The first cause of this type, the error itself included.
pub fn cause_of<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(found) = cause.downcast_ref() {
            return Some(found);
        }
        next = cause.source();
    }
    None
}
