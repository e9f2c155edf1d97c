//! A step whose evaluation is still due.

use serde::{Deserialize, Serialize};

use crate::train::grpo::guard::Figures;
use crate::train::metrics::Values;

/// The measurements of a step, until its policy is evaluated and they are logged. Part of the
/// checkpoint of a run that ends in between.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Due {
    #[serde(with = "exact")]
    pub(super) values: Values,
    pub(super) figures: Figures,
}

/// Metrics as texts, which are read again to the last bit.
mod exact {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::train::metrics::Values;

    pub(super) fn serialize<S: Serializer>(
        values: &Values,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let texts = values.iter().map(|(name, value)| (*name, value.to_string()));
        texts.collect::<Vec<_>>().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Values, D::Error> {
        let texts = Vec::<(String, String)>::deserialize(deserializer)?;
        let value = |(name, text): (String, String)| -> Result<(&'static str, f64), D::Error> {
            let value = text.parse::<f64>().map_err(D::Error::custom)?;
            // Once in a process, and a few bytes.
            let name: &'static str = name.leak();
            Ok((name, value))
        };
        texts.into_iter().map(value).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_due_is_read_as_it_was_written() {
        let figures = Figures { entropy: Some(0.5), ..Figures::default() };
        let values = vec![("reward", 1.0 / 3.0), ("loss", -1e-300), ("kl", f64::INFINITY)];
        let due = Due { values, figures };
        let text = serde_json::to_string(&due).unwrap();
        assert_eq!(serde_json::from_str::<Due>(&text).unwrap(), due);
    }
}
