//! Checks that a server has the policy's model: its id, its vocabulary, its chat template.

use std::time::Instant;

use serde_json::{Value, json};

use super::config::{Dialect, IdentityCheck, TokensConfig};
use super::dialect::{detokenize, detokenized};
use super::server::{RequestFailure, TokenServer};
use crate::engine::EngineError;
use crate::tokenization::{CONVERSATION, ChatTokenizer, Fingerprint};

/// Characters of a differing text that an error shows.
const EXCERPT: usize = 40;

/// What a server is compared with.
pub(super) struct Identity<'a> {
    pub(super) config: &'a TokensConfig,
    pub(super) text: &'a ChatTokenizer,
    pub(super) own: &'a Fingerprint,
}

impl Identity<'_> {
    /// Compares a server. Returns its context length, if it reports one.
    pub(super) async fn compare(
        &self,
        server: &TokenServer,
        until: Instant,
    ) -> Result<Option<usize>, RequestFailure> {
        let listed = server.json("v1/models", None, until).await?;
        let models = listed["data"].as_array().map_or(&[][..], Vec::as_slice);
        self.compare_ids(server, models)?;
        let first = models.first().unwrap_or(&Value::Null);
        // It also answers if another dialect is configured.
        let is_llama_cpp = first["owned_by"] == "llamacpp";
        if !is_llama_cpp && self.config.dialect == Dialect::LlamaCpp {
            return Err(server
                .broken(reason!("it is not a llama.cpp server"; hint: "check `dialect`"))
                .permanent());
        }
        let size = |value: &Value| value.as_u64().map(|size| size as usize);
        let mut context = size(&first["max_model_len"]);
        if is_llama_cpp {
            let about = server.json("props", None, until).await?;
            context = size(&about["default_generation_settings"]["n_ctx"]);
            let vocabulary = size(&first["meta"]["n_vocab"]);
            if let Some(theirs) = vocabulary.filter(|theirs| *theirs < self.own.size) {
                return Err(server
                    .other_model(format!("it has {theirs} tokens, the policy {}", self.own.size)));
            }
        }
        if self.config.check() != IdentityCheck::None {
            self.compare_vocabulary(server, until).await?;
        }
        if self.config.check() == IdentityCheck::Template {
            match is_llama_cpp {
                true => self.compare_written(server, until).await?,
                false => self.compare_conversation(server, until).await?,
            }
        }
        Ok(context)
    }

    fn compare_ids(&self, server: &TokenServer, models: &[Value]) -> Result<(), RequestFailure> {
        let Some(id) = &self.config.model else { return Ok(()) };
        let aliases = models.iter().flat_map(|model| model["aliases"].as_array()).flatten();
        let names = models.iter().map(|model| &model["id"]).chain(aliases);
        let names: Vec<&str> = names.filter_map(Value::as_str).collect();
        if names.contains(&id.as_str()) {
            return Ok(());
        }
        let shown: Vec<String> = names.iter().take(8).map(|name| format!("`{name}`")).collect();
        Err(server.other_model(format!("it has no `{id}`, but {}", shown.join(", "))))
    }

    async fn compare_vocabulary(
        &self,
        server: &TokenServer,
        until: Instant,
    ) -> Result<(), RequestFailure> {
        let ids = &self.own.ids;
        if self.agrees(server, ids, until).await? {
            return Ok(());
        }
        // Ids before `same` agree, those before `other` do not.
        let (mut same, mut other) = (0, ids.len());
        while other - same > 1 {
            let middle = same.midpoint(other);
            match self.agrees(server, &ids[..middle], until).await? {
                true => same = middle,
                false => other = middle,
            }
        }
        let id = ids[same];
        let theirs = self.texts(server, &[id], until).await?;
        let own = self.text.tokenizer.decode(&[id]).unwrap_or_default();
        Err(server.other_model(format!(
            "token `{id}` is `{}` there, and `{own}` in the policy's vocabulary",
            excerpt(&theirs)
        )))
    }

    async fn agrees(
        &self,
        server: &TokenServer,
        ids: &[u32],
        until: Instant,
    ) -> Result<bool, RequestFailure> {
        let theirs = self.texts(server, ids, until).await?;
        // Decoders tidy up spaces differently.
        let plain = |text: &str| text.split_whitespace().collect::<String>();
        let own = self.text.tokenizer.decode(ids).unwrap_or_default();
        Ok(plain(&theirs) == plain(&own))
    }

    async fn texts(
        &self,
        server: &TokenServer,
        ids: &[u32],
        until: Instant,
    ) -> Result<String, RequestFailure> {
        let body = detokenize(ids, self.config.model.as_deref());
        let reply = server.json("detokenize", Some(&body), until).await;
        let reply = reply.map_err(|failure| match failure.is_server_fault {
            true => uncompared(failure),
            false => server.other_model(format!(
                "it refuses ids of the policy's vocabulary: {}",
                failure.error
            )),
        })?;
        let text = detokenized(&reply).map(str::to_owned);
        text.ok_or_else(|| server.broken("its answer to `/detokenize` has no text").permanent())
    }

    /// The rendered conversation as text.
    async fn compare_written(
        &self,
        server: &TokenServer,
        until: Instant,
    ) -> Result<(), RequestFailure> {
        let body = json!({ "messages": messages() });
        let reply = server.json("apply-template", Some(&body), until).await.map_err(uncompared)?;
        let theirs = reply["prompt"].as_str().unwrap_or_default();
        // The start token may be left to the tokenizer.
        let begin = self.own.begin.as_deref();
        let bare = begin.and_then(|begin| theirs.strip_prefix(begin)).unwrap_or(theirs);
        self.same_template(server, bare, &self.own.conversation)
    }

    /// The rendered conversation as ids.
    async fn compare_conversation(
        &self,
        server: &TokenServer,
        until: Instant,
    ) -> Result<(), RequestFailure> {
        let body = json!({
            "model": self.config.model,
            "messages": messages(),
            "add_generation_prompt": true,
        });
        let reply = server.json("tokenize", Some(&body), until).await.map_err(uncompared)?;
        let theirs = reply["tokens"].as_array().map_or(&[][..], Vec::as_slice);
        let theirs: Vec<u32> =
            theirs.iter().filter_map(Value::as_u64).map(|id| id as u32).collect();
        if theirs == self.own.conversation_ids {
            return Ok(());
        }
        let text = |ids: &[u32]| self.text.tokenizer.decode(ids).unwrap_or_default();
        self.same_template(server, &text(&theirs), &text(&self.own.conversation_ids))?;
        Err(server.other_model(format!(
            "it cuts a conversation into the tokens {theirs:?}, the policy into {:?}",
            self.own.conversation_ids
        )))
    }

    fn same_template(
        &self,
        server: &TokenServer,
        theirs: &str,
        own: &str,
    ) -> Result<(), RequestFailure> {
        if theirs == own {
            return Ok(());
        }
        let common = theirs.chars().zip(own.chars()).take_while(|(a, b)| a == b).count();
        let rest = |text: &str| excerpt(&text.chars().skip(common).collect::<String>());
        Err(server.other_model(reason!(
            "after {common} characters its chat template writes `{}`, the policy's `{}`", rest(theirs), rest(own);
            hint: "where that is meant, set `check = \"vocabulary\"`"
        )))
    }
}

fn messages() -> Vec<Value> {
    CONVERSATION.map(|(role, content)| json!({"role": role, "content": content})).to_vec()
}

/// A failure to compare. A server that cannot be compared is not used.
fn uncompared(mut failure: RequestFailure) -> RequestFailure {
    if let (true, EngineError::Server { reason, .. }) = (failure.is_permanent, &mut failure.error) {
        let hint = "`check` says what is compared before the first token";
        reason.hint.get_or_insert(hint.into());
    }
    failure
}

fn excerpt(text: &str) -> String {
    text.chars().take(EXCERPT).collect()
}
