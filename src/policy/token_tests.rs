#![allow(clippy::unwrap_used)]

use std::sync::Mutex;

use tokio::sync::mpsc;

use super::*;
use crate::protocol::TAGS;
use crate::seed;
use crate::tokenization::word_level::{CONVERSATION_TEMPLATE, END, write_word_level};

const CONTEXT: usize = 24;

/// An engine that sends what a test gives it, request by request, and records its requests.
#[derive(Default)]
struct ScriptedEngine {
    turns: Mutex<Vec<Vec<GenerateEvent>>>,
    asked: Mutex<Vec<GenerateRequest>>,
    /// The senders, alive as long as the engine.
    senders: Mutex<Vec<mpsc::UnboundedSender<GenerateEvent>>>,
    /// Whether requests are closed behind their events.
    closes: bool,
}

#[async_trait]
impl Engine for ScriptedEngine {
    fn generate(&self, request: GenerateRequest) -> mpsc::UnboundedReceiver<GenerateEvent> {
        let (sender, receiver) = mpsc::unbounded_channel();
        for event in self.turns.lock().unwrap().remove(0) {
            sender.send(event).unwrap();
        }
        self.asked.lock().unwrap().push(request);
        if !self.closes {
            self.senders.lock().unwrap().push(sender);
        }
        receiver
    }

    fn context_length(&self) -> usize {
        CONTEXT
    }

    async fn is_ready(&self) -> bool {
        true
    }
}

/// Collects a turn's text, and ends it at a given text if there is one.
#[derive(Default)]
struct Heard {
    text: String,
    until: Option<&'static str>,
}

#[async_trait]
impl TurnSink for Heard {
    async fn text(&mut self, text: &str) -> Result<ControlFlow<()>, PolicyError> {
        self.text.push_str(text);
        let is_over = self.until.is_some_and(|until| self.text.ends_with(until));
        Ok(if is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }
}

fn chat_tokenizer() -> ChatTokenizer {
    let folder = tempfile::tempdir().unwrap();
    let tags: Vec<String> =
        TAGS.iter().flat_map(|tag| [format!("<{tag}>"), format!("</{tag}>")]).collect();
    let words = ["one two three four".to_owned()];
    write_word_level(folder.path(), &words, &tags, CONVERSATION_TEMPLATE).unwrap();
    ChatTokenizer::load(folder.path()).unwrap()
}

fn sampled(text: &ChatTokenizer, markup: &str) -> GenerateEvent {
    let ids = text.tokenizer.encode_markup(markup).unwrap();
    let token = |id| SampledToken { id, log_prob: -0.5 };
    GenerateEvent::Tokens(ids.into_iter().map(token).collect())
}

async fn opened(engine: &Arc<ScriptedEngine>, text: &Arc<ChatTokenizer>) -> Box<dyn PolicySession> {
    let engine = Arc::clone(engine) as Arc<dyn Engine>;
    let policy = TokenPolicy::new("p", engine, Arc::clone(text), true);
    let sampling = Sampling { temperature: 1.0, top_p: 1.0, top_k: None, seed: 7 };
    let opening = [Piece::Text("one two".to_owned())];
    policy.open(PolicyOpening::new(&opening, sampling)).await.unwrap()
}

#[tokio::test]
async fn the_trace_is_what_was_sampled_and_each_turn_has_a_seed() {
    let text = Arc::new(chat_tokenizer());
    let done = GenerateEvent::Done(StopReason::StopId);
    let turns = vec![
        vec![sampled(&text, "three"), sampled(&text, &format!("four{END}")), done.clone()],
        vec![sampled(&text, "one"), GenerateEvent::Done(StopReason::Length)],
    ];
    let engine = Arc::new(ScriptedEngine { turns: turns.into(), ..Default::default() });
    let mut session = opened(&engine, &text).await;
    let opening = session.trace().ids.clone();
    let mut heard = Heard::default();
    let turn = session.turn(8, &mut heard).await.unwrap();
    // The end of the turn belongs to the trace, not to the text.
    assert_eq!((heard.text.trim(), turn.finish), ("three four", TurnFinish::Stop));
    let usage = (turn.usage.prompt_tokens as usize, turn.usage.completion_tokens);
    assert_eq!(usage, (opening.len(), 3));
    let end = text.tokenizer.encode_markup(END).unwrap();
    let trace = session.trace();
    assert!(trace.ids.starts_with(&opening) && trace.ids.ends_with(&end));
    assert_eq!(trace.action_count(), 3);

    session.observe(&[Piece::Text("two".to_owned())]).await.unwrap();
    let before = session.trace().ids.clone();
    assert!(before.len() > opening.len() + 3, "the observation is in it");
    let mut heard = Heard::default();
    let turn = session.turn(8, &mut heard).await.unwrap();
    assert_eq!((heard.text.trim(), turn.finish), ("one", TurnFinish::Length));
    let asked = engine.asked.lock().unwrap();
    assert_eq!(asked[1].prompt, before, "nothing is decoded and encoded again");
    assert_eq!([asked[0].sampling.seed, asked[1].sampling.seed], [7, seed::nth(7, 1)]);
    assert_eq!(asked[0].stop_ids, text.tokenizer.stop_ids());
}

#[tokio::test]
async fn a_turn_ends_where_its_reader_has_enough() {
    let text = Arc::new(chat_tokenizer());
    let turns = vec![vec![sampled(&text, "one"), sampled(&text, "two"), sampled(&text, "three")]];
    let engine = Arc::new(ScriptedEngine { turns: turns.into(), ..Default::default() });
    let mut session = opened(&engine, &text).await;
    let mut heard = Heard { until: Some("two"), ..Heard::default() };
    let turn = session.turn(8, &mut heard).await.unwrap();
    assert_eq!((heard.text.trim(), turn.finish), ("one two", TurnFinish::Stop));
    assert_eq!(session.trace().action_count(), 2, "what came later is not in the trace");
    assert!(engine.senders.lock().unwrap()[0].is_closed(), "the engine's request is cancelled");
}

#[tokio::test]
async fn the_context_bounds_a_turn_and_is_an_error_once_it_is_full() {
    let text = Arc::new(chat_tokenizer());
    let turns = vec![vec![GenerateEvent::Done(StopReason::Length)]];
    let engine = Arc::new(ScriptedEngine { turns: turns.into(), ..Default::default() });
    let mut session = opened(&engine, &text).await;
    let room = CONTEXT - session.trace().ids.len();
    session.turn(1000, &mut Heard::default()).await.unwrap();
    assert_eq!(engine.asked.lock().unwrap()[0].max_tokens, room);
    let words = "one ".repeat(room);
    session.observe(&[Piece::Text(words.trim().to_owned())]).await.unwrap();
    let error = session.turn(1, &mut Heard::default()).await.unwrap_err();
    let tokens = session.trace().ids.len();
    let expected = EngineError::PromptTooLong { tokens, context: CONTEXT };
    assert_eq!(error.to_string(), PolicyError::Engine(expected).to_string());
    // A text that is far too long is not tokenised at all.
    let error = session.given(&"x".repeat(CONTEXT * BYTES_A_TOKEN + 1)).await.unwrap_err();
    assert!(matches!(error, PolicyError::TextTooLong { context: CONTEXT, .. }), "{error}");
}

#[tokio::test]
async fn an_engine_that_fails_or_vanishes_is_an_error() {
    let text = Arc::new(chat_tokenizer());
    let failed = GenerateEvent::Failed(EngineError::Stopped("it is gone".to_owned()));
    for (event, expected) in [(failed, "it is gone"), (sampled(&text, "one"), "without an end")] {
        let turns = Mutex::new(vec![vec![event]]);
        let engine = Arc::new(ScriptedEngine { turns, closes: true, ..Default::default() });
        let error = opened(&engine, &text).await.turn(8, &mut Heard::default()).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
