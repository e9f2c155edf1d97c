//! A large model that follows a script: for tests and benchmarks.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;

use super::{Call, LargeModel, LargeModelError, Prices, Reply, ReplyStream, reply_stream};

/// Replies by a function of the call.
pub struct Scripted<F> {
    name: String,
    reply: F,
}

impl<F> Scripted<F>
where
    F: Fn(&Call) -> Result<Reply, LargeModelError> + Send + Sync,
{
    /// A model that replies what the function returns.
    pub fn new(name: impl Into<String>, reply: F) -> Self {
        Self { name: name.into(), reply }
    }
}

impl Scripted<()> {
    /// A model that gives these texts in order, and then rejects every call.
    pub fn texts(name: &str, texts: &[&str]) -> impl LargeModel + use<> {
        let name = name.to_owned();
        let texts: VecDeque<String> = texts.iter().map(|&text| text.to_owned()).collect();
        let texts = Mutex::new(texts);
        Scripted::new(name.clone(), move |_| {
            let next = texts.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            next.map(Reply::text).ok_or_else(|| LargeModelError::Rejected {
                model: name.clone(),
                reason: "its script is over".into(),
            })
        })
    }
}

#[async_trait]
impl<F> LargeModel for Scripted<F>
where
    F: Fn(&Call) -> Result<Reply, LargeModelError> + Send + Sync,
{
    fn name(&self) -> &str {
        &self.name
    }

    fn prices(&self) -> Prices {
        Prices::default()
    }

    /// The script says what a reply costs.
    fn only_prices(&self) -> Option<Prices> {
        None
    }

    async fn complete(&self, call: &Call) -> Result<Reply, LargeModelError> {
        (self.reply)(call)
    }

    async fn stream(&self, call: &Call) -> Result<ReplyStream, LargeModelError> {
        (self.reply)(call).map(reply_stream)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use futures::TryStreamExt;

    use super::super::ReplyChunk;
    use super::*;

    #[tokio::test]
    async fn texts_come_in_order_and_end() {
        let model = Scripted::texts("m", &["a", "", "b"]);
        let call = Call::default();
        assert_eq!(model.complete(&call).await.unwrap(), Reply::text("a"));
        let chunks: Vec<_> = model.stream(&call).await.unwrap().try_collect().await.unwrap();
        assert_eq!(chunks, [ReplyChunk::Done(Reply::text(""))]);
        let chunks: Vec<_> = model.stream(&call).await.unwrap().try_collect().await.unwrap();
        let done = ReplyChunk::Done(Reply::text("b"));
        assert_eq!(chunks, [ReplyChunk::Text("b".to_owned()), done]);
        assert!(model.complete(&call).await.is_err());
    }
}
