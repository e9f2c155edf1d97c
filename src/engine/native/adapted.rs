//! One of the adapters of an engine, as an engine of its own.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::NativeEngine;
use crate::engine::{Engine, GenerateEvent, GenerateRequest};

/// Samples from a model with one of its adapters. It has nothing of its own: the weights, the queue
/// and each step are those of the [`NativeEngine`], which others use as well.
#[derive(Debug, Clone)]
pub struct AdaptedEngine {
    pub(super) engine: Arc<NativeEngine>,
    adapter: usize,
}

impl AdaptedEngine {
    /// One for each of the adapters that the engine was started with, in their order.
    pub fn all(engine: &Arc<NativeEngine>) -> impl Iterator<Item = Self> {
        (0..engine.adapters).map(|adapter| Self { engine: Arc::clone(engine), adapter })
    }
}

#[async_trait]
impl Engine for AdaptedEngine {
    fn generate(&self, request: GenerateRequest) -> mpsc::UnboundedReceiver<GenerateEvent> {
        self.engine.begin(request, Some(self.adapter))
    }

    fn context_length(&self) -> usize {
        self.engine.context_length()
    }

    async fn is_ready(&self) -> bool {
        self.engine.is_ready().await
    }
}
