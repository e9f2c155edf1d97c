//! The failed responses in the OpenAPI document.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

use crate::http::wire::ErrorBody;

const LOOP_FAILURES: [(&str, &str); 11] = [
    ("400", "A field is not valid; the error names it"),
    ("401", "A key is needed, or the large model does not take it"),
    ("403", "The key may not use this model"),
    ("404", "No such model or policy"),
    ("408", "The body was too slow"),
    ("413", "The body is too long"),
    ("429", "Too many requests, or a limit of the key is reached"),
    ("500", "The server failed"),
    ("502", "The large model failed"),
    ("503", "A model is not available"),
    ("504", "The deadline passed before any reply"),
];

const KEY_FAILURES: [(&str, &str); 4] = [
    ("401", "A key is needed"),
    ("403", "A page of another origin, or a foreign host name"),
    ("429", "A limit of the key is reached"),
    ("503", "Keys cannot be checked now"),
];

const FORWARD_FAILURES: [(&str, &str); 10] = [
    ("400", "The body is not a JSON object"),
    ("401", "A key is needed"),
    ("403", "The key may not use this model"),
    ("404", "No endpoint serves the model"),
    ("408", "The body was too slow"),
    ("413", "The body is too long"),
    ("429", "A limit of the key or of the endpoint is reached"),
    ("502", "The endpoint cannot be reached"),
    ("503", "The endpoint failed too often recently"),
    ("504", "The endpoint was too slow"),
];

/// The failures of a request to the loop, with the error object `B`.
pub(super) struct LoopFailures<B>(PhantomData<B>);

impl<B: ToSchema> IntoResponses for LoopFailures<B> {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        LOOP_FAILURES.into_iter().map(response::<B>).collect()
    }
}

/// The failures of a request that only needs a key.
pub(super) struct KeyFailures;

impl IntoResponses for KeyFailures {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        KEY_FAILURES.into_iter().map(response::<ErrorBody>).collect()
    }
}

/// The failures of a request that is passed through.
pub(super) struct ForwardFailures;

impl IntoResponses for ForwardFailures {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let other = ResponseBuilder::new().description("What else the endpoint answers").build();
        let other = ("default".to_owned(), RefOr::T(other));
        FORWARD_FAILURES.into_iter().map(response::<ErrorBody>).chain([other]).collect()
    }
}

fn response<B: ToSchema>((status, description): (&str, &str)) -> (String, RefOr<Response>) {
    let body = ContentBuilder::new().schema(Some(Ref::from_schema_name(B::name()))).build();
    let response =
        ResponseBuilder::new().description(description).content("application/json", body);
    (status.to_owned(), RefOr::T(response.build()))
}
