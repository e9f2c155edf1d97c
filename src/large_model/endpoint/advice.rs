//! Which failures of an attempt are worth a retry.

use crate::large_model::LargeModelError;
use crate::outbound::retry::{Advice, Retryable};

impl Retryable for LargeModelError {
    fn advice(&self) -> Advice {
        match self {
            Self::CircuitOpen { .. } => Advice::NotAttempted,
            Self::Status { retry_after, .. } if self.is_transient() => {
                Advice::Retry { after: *retry_after }
            }
            _ if self.is_transient() => Advice::Retry { after: None },
            _ => Advice::GiveUp,
        }
    }
}
