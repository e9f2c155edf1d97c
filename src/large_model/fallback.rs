//! Several large models as one: when one fails, the next is tried.

use std::sync::Arc;

use async_trait::async_trait;
use futures::future::BoxFuture;

use super::{
    AttemptOutcome, Call, CallUsage, FailedCalls, LargeModel, LargeModelError, Prices, Reply,
    ReplyStream,
};

/// A large model with fallbacks, in order. It has the name and prices of the first.
///
/// A stream can fall back until some of it was returned; after that its failure is final.
pub struct WithFallbacks {
    first: Arc<dyn LargeModel>,
    others: Vec<Arc<dyn LargeModel>>,
}

impl WithFallbacks {
    /// Asks `first`, then the others in turn.
    pub fn new(first: Arc<dyn LargeModel>, others: Vec<Arc<dyn LargeModel>>) -> Self {
        Self { first, others }
    }

    /// Tries each in turn. If all fail, returns the failure of the first, which was the one asked
    /// for.
    async fn ask<T>(&self, call: &Call, ask: impl Ask<T>) -> Result<T, LargeModelError> {
        let first = match ask(&*self.first, call).await {
            Err(error) if error.is_worth_another_model() => error,
            result => return result,
        };
        // What was perhaps billed; the caller counts the failure that is returned.
        let (failed_calls, without_first) = (call.failed_calls.clone(), FailedCalls::default());
        without_first.set(failed_calls.used());
        failed_calls.add(CallUsage::of_failed(&first, &*self.first, call));
        let unseen = call.unseen.take();
        // Another model's id at the first endpoint means nothing to the others.
        let mut call = call.clone();
        call.remove("model");
        let mut failed = (self.first.name(), AttemptOutcome::from(&first));
        for model in &self.others {
            tracing::warn!(
                model = failed.0,
                outcome = failed.1.label(),
                code = failed.1.code(),
                next = model.name(),
                "falling back to another large model"
            );
            // A model that does not wait says nothing about it.
            call.waiting.end();
            let error = match ask(&**model, &call).await {
                Err(error) => error,
                result => return result,
            };
            for failed_calls in [&failed_calls, &without_first] {
                failed_calls.add(CallUsage::of_failed(&error, &**model, &call));
            }
            call.unseen.take();
            if !error.is_worth_another_model() {
                break;
            }
            failed = (model.name(), AttemptOutcome::from(&error));
        }
        failed_calls.set(without_first.used());
        call.unseen.put_back(unseen);
        Err(first)
    }
}

/// The two ways of calling a model.
trait Ask<T>:
    for<'a> Fn(&'a dyn LargeModel, &'a Call) -> BoxFuture<'a, Result<T, LargeModelError>> + Send + Sync
{
}

impl<T, F> Ask<T> for F where
    F: for<'a> Fn(&'a dyn LargeModel, &'a Call) -> BoxFuture<'a, Result<T, LargeModelError>>
        + Send
        + Sync
{
}

#[async_trait]
impl LargeModel for WithFallbacks {
    fn name(&self) -> &str {
        self.first.name()
    }

    fn identity(&self) -> String {
        let all = std::iter::once(&self.first).chain(&self.others);
        serde_json::Value::from_iter(all.map(|model| model.identity())).to_string()
    }

    fn prices(&self) -> Prices {
        self.first.prices()
    }

    fn prices_of(&self, model: Option<&str>) -> Option<Prices> {
        self.first.prices_of(model)
    }

    fn only_prices(&self) -> Option<Prices> {
        None
    }

    fn is_priced(&self, model: Option<&str>) -> bool {
        // The others are asked for their own models, see `ask`.
        self.first.is_priced(model) && self.others.iter().all(|other| other.is_priced(None))
    }

    async fn complete(&self, call: &Call) -> Result<Reply, LargeModelError> {
        self.ask(call, |model, call| model.complete(call)).await
    }

    async fn stream(&self, call: &Call) -> Result<ReplyStream, LargeModelError> {
        self.ask(call, |model, call| model.stream(call)).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Mutex;

    use serde_json::json;

    use super::*;
    use crate::chat::ChatMessage;
    use crate::large_model::{Phase, Scripted, estimated_tokens};
    use crate::trajectory::TokenUsage;

    type Asked = Arc<Mutex<Vec<String>>>;

    /// A model that replies with its name, or fails.
    fn model(name: &str, fails: Option<LargeModelError>, asked: &Asked) -> Arc<dyn LargeModel> {
        let (name, asked) = (name.to_owned(), Arc::clone(asked));
        Arc::new(Scripted::new(name.clone(), move |call: &Call| {
            asked.lock().unwrap().push(format!("{name} {}", json!(call.params)));
            fails.clone().map_or_else(|| Ok(Reply::text(&name)), Err)
        }))
    }

    fn failed(status: u16, billed: Option<TokenUsage>) -> Option<LargeModelError> {
        Some(LargeModelError::Status {
            model: String::new(),
            status,
            message: String::new(),
            retry_after: None,
            body: None,
            billed: billed.map(Box::new),
        })
    }

    fn status(status: u16) -> Option<LargeModelError> {
        failed(status, None)
    }

    fn deadline() -> Option<LargeModelError> {
        Some(LargeModelError::Deadline { model: String::new(), was_sent: true })
    }

    #[tokio::test]
    async fn a_fallback_that_does_not_wait_is_not_taken_for_one_that_does() {
        let down = Scripted::new("down", |call: &Call| {
            call.waiting.begin();
            Err(failed(503, None).unwrap())
        });
        let local = Scripted::new("local", |call: &Call| {
            assert!(!call.waiting.is_on());
            Ok(Reply::text("yes"))
        });
        let call = Call::default();
        let model = WithFallbacks::new(Arc::new(down), vec![Arc::new(local)]);
        model.complete(&call).await.unwrap();
        assert!(!call.waiting.is_on());
    }

    #[tokio::test]
    async fn who_is_asked_and_who_replies() {
        // The failures of the three models; which one replies, or the status that is returned; how
        // many are tried.
        let table = [
            ([None, None, None], Ok("a"), 1),
            ([status(503), None, None], Ok("b"), 2),
            ([status(401), status(429), None], Ok("c"), 3),
            ([status(503), status(500), status(404)], Err(Some(503)), 3),
            ([status(400), None, None], Err(Some(400)), 1),
            ([status(503), status(400), None], Err(Some(503)), 2),
            ([deadline(), None, None], Err(None), 1),
            ([status(503), deadline(), None], Err(Some(503)), 2),
        ];
        for (fails, expected, count) in table {
            for streamed in [false, true] {
                let asked = Asked::default();
                let mut models = ["a", "b", "c"]
                    .into_iter()
                    .zip(fails.clone())
                    .map(|(name, fails)| model(name, fails, &asked));
                let all = WithFallbacks::new(models.next().unwrap(), models.collect());
                let call = Call {
                    params: [("model".to_owned(), json!("other"))].into_iter().collect(),
                    ..Call::default()
                };
                let result = if streamed {
                    use futures::StreamExt;
                    match all.stream(&call).await {
                        Ok(stream) => {
                            stream.collect::<Vec<_>>().await.pop().unwrap().map(|chunk| match chunk
                            {
                                super::super::ReplyChunk::Done(reply) => reply,
                                other => unreachable!("{other:?}"),
                            })
                        }
                        Err(error) => Err(error),
                    }
                } else {
                    all.complete(&call).await
                };
                let result = result.map(|reply| reply.message.as_text()).map_err(|e| match e {
                    LargeModelError::Status { status, .. } => Some(status),
                    _ => None,
                });
                assert_eq!(result, expected.map(str::to_owned), "{fails:?}");
                let asked = asked.lock().unwrap();
                assert_eq!(asked.len(), count, "{fails:?}");
                assert_eq!(asked[0], "a {\"model\":\"other\"}");
                assert!(asked[1..].iter().all(|asked| asked.ends_with("{}")), "{asked:?}");
            }
        }
    }

    /// A model with a price.
    struct Priced(Arc<dyn LargeModel>, f64);

    #[async_trait]
    impl LargeModel for Priced {
        fn name(&self) -> &str {
            self.0.name()
        }

        fn prices(&self) -> Prices {
            Prices { input_per_million: 1e6 * self.1, output_per_million: 0.0 }
        }

        async fn complete(&self, call: &Call) -> Result<Reply, LargeModelError> {
            self.0.complete(call).await
        }

        async fn stream(&self, call: &Call) -> Result<ReplyStream, LargeModelError> {
            self.0.stream(call).await
        }
    }

    #[tokio::test]
    async fn failed_calls_that_may_be_billed_are_counted_once() {
        let timeout = || {
            let (model, limit) = (String::new(), std::time::Duration::from_secs(1));
            Some(LargeModelError::Timeout { model, phase: Phase::FirstByte, limit })
        };
        // The failures of three models, whose prices are 1, 10 and 100; what they are known to have
        // cost: the failure that is returned is counted by the caller.
        let table = [
            ([None, None, None], 0, 0.0),
            ([status(503), None, None], 0, 0.0),
            ([timeout(), None, None], 1, 1.0),
            ([timeout(), status(500), None], 1, 1.0),
            ([timeout(), timeout(), None], 2, 11.0),
            ([status(504), deadline(), None], 1, 10.0),
            ([timeout(), timeout(), timeout()], 2, 110.0),
        ];
        for (fails, calls, prices) in table {
            let asked = Asked::default();
            let mut models =
                fails.clone().into_iter().zip([1.0, 10.0, 100.0]).map(|(fails, price)| {
                    Arc::new(Priced(model("m", fails, &asked), price)) as Arc<dyn LargeModel>
                });
            let all = WithFallbacks::new(models.next().unwrap(), models.collect());
            let messages = vec![ChatMessage::text("user", "a ".repeat(20))];
            let read = estimated_tokens(&messages);
            for streamed in [false, true] {
                let call = Call { messages: messages.clone(), ..Call::default() };
                let _ = match streamed {
                    false => all.complete(&call).await.map(|_| ()),
                    true => all.stream(&call).await.map(|_| ()),
                };
                let CallUsage { calls: found, tokens, cost } = call.failed_calls.used();
                assert_eq!((found, cost), (calls, prices * read as f64), "{fails:?}");
                assert_eq!(tokens.prompt_tokens, calls * read, "{fails:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_failed_call_costs_what_it_is_known_to_have_cost() {
        let (asked, billed) = (Asked::default(), TokenUsage::reported(5, 7));
        let first = Arc::new(Priced(model("a", failed(502, Some(billed)), &asked), 1.0));
        let all = WithFallbacks::new(first, vec![model("b", None, &asked)]);
        let call = Call::default();
        all.complete(&call).await.unwrap();
        let CallUsage { calls, tokens, cost } = call.failed_calls.used();
        assert_eq!((calls, tokens, cost), (1, billed, 5.0));
    }

    #[test]
    fn it_bears_the_first_name_and_every_identity() {
        let asked = Asked::default();
        let names = |names: [&str; 2]| {
            let [first, second] = names.map(|name| model(name, None, &asked));
            WithFallbacks::new(first, vec![second])
        };
        assert_eq!(names(["a", "b"]).name(), "a");
        assert_ne!(names(["a", "b"]).identity(), names(["a", "c"]).identity());
    }
}
