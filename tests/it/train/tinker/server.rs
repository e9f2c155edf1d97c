//! A Tinker server over a real socket, which trains with this crate's own model, and fails on
//! request. Its protobuf is defined here independently, from SkyRL's, so that a wrong field number
//! is noticed.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Response, StatusCode, header};
use candle_core::{DType, Device};
use flate2::Compression;
use flate2::write::GzEncoder;
use prompt_r1::model::{Adapter, AdapterConfig, Batch, Gradients, Model, Projection, Selection};
use prompt_r1::train::adamw::{AdamW, AdamWConfig, clip};
use prost::Message;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// The widest adapter that it makes.
pub const MAX_RANK: usize = 8;
/// The name of its model.
pub const BASE: &str = "base";
const ALPHA: f64 = 32.0;
const PROTOBUF: &str = "application/x-protobuf";

/// A fault of a response.
#[derive(Clone)]
pub enum Fault {
    /// This is sent, and nothing is done.
    Answer(u16, Vec<(&'static str, &'static str)>, &'static str),
    /// The request is executed, and the connection breaks.
    Lost,
    /// The request is executed, and half of the response is missing.
    Truncated,
    /// Nothing is done or sent.
    Silent,
    /// The request is executed, and the response comes late.
    Slow(u64),
}

/// A server, which ends when this is dropped.
pub struct Tinker {
    pub url: String,
    shared: Arc<Shared>,
    _runtime: Runtime,
}

struct Shared {
    state: Mutex<Trainer>,
    asked: Mutex<HashMap<String, usize>>,
    faults: BTreeMap<(&'static str, usize), Fault>,
}

/// How losses are aggregated.
#[derive(Clone, Copy, PartialEq)]
pub enum Scale {
    Sum,
    Jax,
}

struct Trainer {
    base: Model,
    scale: Scale,
    /// Models at once.
    places: usize,
    models: HashMap<String, Trained>,
    made: usize,
    results: HashMap<String, Result<(&'static str, Vec<u8>), String>>,
    /// The body and the future of each numbered request.
    numbered: HashMap<(String, i64), (Vec<u8>, String)>,
    /// What was saved, by `MODEL/KIND/NAME`; it outlives the server.
    saved: Arc<TempDir>,
    /// How often weights were updated.
    updates: usize,
}

struct Trained {
    model: Model,
    adamw: AdamW,
    gradients: Gradients,
    /// Trajectories since the last update.
    examples: usize,
    requests: usize,
}

impl Tinker {
    pub fn start(base: &Path, scale: Scale) -> Self {
        Self::with_faults(base, scale, [])
    }

    /// Fails the request of this number (from 1) to a path with this ending.
    pub fn with_faults(
        base: &Path,
        scale: Scale,
        faults: impl IntoIterator<Item = (&'static str, usize, Fault)>,
    ) -> Self {
        Self::over(Arc::new(tempfile::tempdir().unwrap()), base, scale, faults)
    }

    /// A server with the files of this one, which has no models loaded.
    pub fn restarted(self, base: &Path, scale: Scale) -> Self {
        let saved = Arc::clone(&self.shared.state.lock().unwrap().saved);
        Self::over(saved, base, scale, [])
    }

    fn over(
        saved: Arc<TempDir>,
        base: &Path,
        scale: Scale,
        faults: impl IntoIterator<Item = (&'static str, usize, Fault)>,
    ) -> Self {
        let state = Trainer {
            base: Model::load(base, DType::F32, &Device::Cpu).unwrap(),
            scale,
            places: 2,
            models: HashMap::new(),
            made: std::fs::read_dir(saved.path()).unwrap().count(),
            results: HashMap::new(),
            numbered: HashMap::new(),
            saved,
            updates: 0,
        };
        let faults = faults.into_iter().map(|(path, nth, fault)| ((path, nth), fault)).collect();
        let asked = Mutex::default();
        let shared = Arc::new(Shared { state: Mutex::new(state), asked, faults });
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(any).with_state(Arc::clone(&shared));
        runtime.spawn(axum::serve(listener, router).into_future());
        Self { url, shared, _runtime: runtime }
    }

    /// Leaves this many slots for models.
    pub fn places(self, places: usize) -> Self {
        self.shared.state.lock().unwrap().places = places;
        self
    }

    /// Makes clients look for it at a dead address.
    pub fn elsewhere(self) -> Self {
        Self { url: "http://127.0.0.1:9".into(), ..self }
    }

    /// How often weights were updated.
    pub fn updates(&self) -> usize {
        self.shared.state.lock().unwrap().updates
    }

    /// Models that are loaded.
    pub fn models(&self) -> usize {
        self.shared.state.lock().unwrap().models.len()
    }

    /// How often a path that ends with `path` was requested.
    pub fn asked(&self, path: &str) -> usize {
        self.shared.asked.lock().unwrap().get(path).copied().unwrap_or(0)
    }
}

type Answer = (u16, &'static str, Vec<u8>);

async fn any(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let path = parts.uri.path().strip_prefix("/api/v1/").unwrap().to_owned();
    let last = match parts.method.as_str() {
        "DELETE" => "delete".to_owned(),
        _ => path.rsplit('/').next().unwrap().to_owned(),
    };
    let nth = {
        let mut asked = shared.asked.lock().unwrap();
        let count = asked.entry(last.clone()).or_default();
        *count += 1;
        *count
    };
    let fault = shared.faults.iter().find(|((path, at), _)| *path == last && *at == nth);
    let fault = fault.map(|(_, fault)| fault.clone());
    match &fault {
        Some(Fault::Answer(status, headers, text)) => {
            let mut response = Response::builder().status(*status);
            let json = text.starts_with('{').then_some(("content-type", "application/json"));
            for (name, value) in headers.iter().chain(&json) {
                response = response.header(*name, *value);
            }
            return response.body(Body::from(*text)).unwrap();
        }
        Some(Fault::Silent) => std::future::pending::<()>().await,
        _ => {}
    };
    let is_delete = last == "delete";
    let held = Arc::clone(&shared);
    let work = move || held.state.lock().unwrap().answer(&path, is_delete, &parts.headers, &body);
    let (status, kind, mut bytes) = tokio::task::spawn_blocking(work).await.unwrap();
    match fault {
        Some(Fault::Slow(ms)) => tokio::time::sleep(Duration::from_millis(ms)).await,
        Some(Fault::Truncated) => bytes.truncate(bytes.len() / 2),
        Some(Fault::Lost) => {
            let broken = futures::stream::iter([Err::<Bytes, _>(std::io::Error::other("lost"))]);
            return Response::new(Body::from_stream(broken));
        }
        _ => {}
    }
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    if status == 302 {
        response.headers_mut().insert(header::LOCATION, kind.parse().unwrap());
    } else {
        response.headers_mut().insert(header::CONTENT_TYPE, kind.parse().unwrap());
    }
    response
}

fn ok(value: Value) -> Answer {
    (200, "application/json", value.to_string().into())
}

fn problem(status: u16, text: &str) -> Answer {
    (status, "application/json", json!({ "detail": text }).to_string().into())
}

impl Trainer {
    fn answer(&mut self, path: &str, is_delete: bool, headers: &HeaderMap, body: &[u8]) -> Answer {
        if let Some(rest) = path.strip_prefix("training_runs/") {
            let (model, rest) = rest.split_once("/checkpoints/").unwrap();
            return self.checkpoint(model, rest, is_delete);
        }
        if path == "forward_backward" {
            if headers.get("content-type").is_none_or(|kind| kind != PROTOBUF) {
                return problem(415, "forward_backward requires a protobuf body");
            }
            let request = Asked::decode(body).unwrap();
            let numbers = (request.model_id.clone(), i64::from(request.seq_id));
            return self.future(Some(numbers), body, |trainer| trainer.scores(&request));
        }
        let json: Value = match body.is_empty() {
            true => Value::Null,
            false => serde_json::from_slice(body).unwrap(),
        };
        let text = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
        let numbers = (text("model_id"), json["seq_id"].as_i64().unwrap_or_default());
        match path {
            "healthz" => ok(json!({ "status": "ok" })),
            "get_server_capabilities" => ok(
                json!({ "supported_models": [{ "model_name": BASE, "max_context": 512 }], "new": 1 }),
            ),
            "create_session" => ok(json!({
                "type": "create_session",
                "info_message": null,
                "warning_message": null,
                "error_message": null,
                "session_id": "session_1",
            })),
            "session_heartbeat" => ok(json!({ "type": "session_heartbeat" })),
            "create_model" => self.create(&json),
            "unload_model" => self.future(None, body, |trainer| {
                trainer.models.remove(&numbers.0);
                Ok(json!({ "type": "unload_model" }))
            }),
            "optim_step" => self.future(Some(numbers.clone()), body, |trainer| {
                trainer.step(&numbers.0, &json["adam_params"])
            }),
            // As in SkyRL, these have no number.
            "save_weights" | "save_weights_for_sampler" => {
                let kind = if path == "save_weights" { "weights" } else { "sampler_weights" };
                let folder = self.folder(&numbers.0, kind, &text("path"));
                if folder.exists() {
                    return problem(409, "Checkpoint already exists");
                }
                std::fs::create_dir_all(&folder).unwrap();
                self.future(None, body, |trainer| {
                    trainer.save(&numbers.0, &folder)?;
                    let path = format!("tinker://{}/{kind}/{}", numbers.0, text("path"));
                    Ok(json!({ "path": path, "type": kind, "sampling_session_id": null }))
                })
            }
            "load_weights" => {
                let from = text("path");
                let saved = self.saved.path().join(from.trim_start_matches("tinker://"));
                if !saved.is_dir() {
                    return problem(404, &format!("Checkpoint not found: {from}"));
                }
                if self.models.get(&numbers.0).is_none_or(|model| model.requests > 0) {
                    return problem(400, "LoadWeights is not permitted with seq_id 1");
                }
                self.future(Some(numbers.clone()), body, |trainer| {
                    let trained = trainer.trained(&numbers.0)?;
                    trained.model.load_trainable(&saved.join("trainable")).unwrap();
                    let trainable = trained.model.trainable();
                    trained.adamw =
                        AdamW::load(AdamWConfig::default(), &trainable, &saved.join("adamw"))
                            .unwrap();
                    Ok(json!({ "type": "load_weights" }))
                })
            }
            "retrieve_future" => match self.results.get(&text("request_id")) {
                None => problem(404, "Future not found"),
                Some(Err(reason)) => problem(400, reason),
                Some(Ok((kind, bytes))) => (200, kind, bytes.clone()),
            },
            _ => problem(404, "Not Found"),
        }
    }

    fn create(&mut self, json: &Value) -> Answer {
        self.made += 1;
        let id = format!("model_{}", self.made);
        let lora = &json["lora_config"];
        let rank = lora["rank"].as_u64().unwrap() as usize;
        let base = json["base_model"].as_str().unwrap();
        let made = if base != BASE {
            Err(format!("Engine is configured for '{BASE}' but request specified '{base}'"))
        } else if !(1..=MAX_RANK).contains(&rank) {
            Err(format!("LoRA rank {rank} must be between 1 and {MAX_RANK}"))
        } else if self.models.len() >= self.places {
            Err(format!("Maximum number of LoRA adapters ({}) reached", self.places + 1))
        } else {
            let config = AdapterConfig { rank, alpha: ALPHA, targets: Projection::ALL.to_vec() };
            let seed = lora["seed"].as_u64().unwrap();
            let spec = self.base.spec().clone();
            let adapter = Adapter::new(&spec, config, seed, DType::F32, &Device::Cpu).unwrap();
            let model = self.base.clone().with_adapter(adapter);
            let adamw = AdamW::new(AdamWConfig::default(), &model.trainable()).unwrap();
            let gradients = model.gradients().unwrap();
            let trained = Trained { model, adamw, gradients, examples: 0, requests: 0 };
            self.models.insert(id.clone(), trained);
            Ok(json!({ "model_id": id, "lora_config": { "rank": rank, "alpha": ALPHA } }))
        };
        let mut ack = self.future(None, b"", |_| made);
        let mut json: Value = serde_json::from_slice(&ack.2).unwrap();
        json["model_id"] = id.into();
        ack.2 = json.to_string().into();
        ack
    }

    /// Executes it, unless that was done under the same number.
    fn future<T: Into<Outcome>>(
        &mut self,
        numbers: Option<(String, i64)>,
        body: &[u8],
        work: impl FnOnce(&mut Self) -> Result<T, String>,
    ) -> Answer {
        if let Some((before, id)) = numbers.as_ref().and_then(|numbers| self.numbered.get(numbers))
        {
            return match before == body {
                true => ok(json!({ "future_id": id, "status": "pending", "request_id": id })),
                false => problem(409, "Training request sequence number was reused"),
            };
        }
        let id = (self.results.len() + 1).to_string();
        let result = work(self).map(|done| {
            let Outcome(kind, bytes) = done.into();
            (kind, bytes)
        });
        self.results.insert(id.clone(), result);
        if let Some(numbers) = numbers {
            if let Some(trained) = self.models.get_mut(&numbers.0) {
                trained.requests += 1;
            }
            self.numbered.insert(numbers, (body.to_vec(), id.clone()));
        }
        ok(json!({ "future_id": id, "status": "pending", "request_id": id }))
    }

    fn trained(&mut self, id: &str) -> Result<&mut Trained, String> {
        let missing =
            || format!("Model {id} not loaded (likely stale request from previous server)");
        self.models.get_mut(id).ok_or_else(missing)
    }

    fn scores(&mut self, request: &Asked) -> Result<Output, String> {
        let scale = self.scale;
        let trained = self.trained(&request.model_id)?;
        let mut record = Record { num_datums: request.data.len() as i64, ..Record::default() };
        let mut scores = Rows { dtype: 1, offsets: 0i64.to_le_bytes().into(), ..Rows::default() };
        for datum in &request.data {
            let ints =
                |bytes: &[u8]| bytes.as_chunks().0.iter().map(|&b| i32::from_le_bytes(b)).collect();
            let mut ids: Vec<i32> =
                ints(&datum.model_input[0].encoded_text.as_ref().unwrap().tokens);
            let targets = &datum.loss_fn_inputs["target_tokens"];
            assert_eq!(targets.dtype, 2);
            let (targets, _) = targets.dense.as_chunks();
            let targets: Vec<i64> =
                targets.iter().map(|&bytes| i64::from_le_bytes(bytes)).collect();
            assert!(ids[1..].iter().zip(&targets).all(|(id, target)| i64::from(*id) == *target));
            ids.push(*targets.last().unwrap() as i32);
            let ids: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();
            let batch = Batch::pack(&[ids]);
            let selection = Selection::next_tokens(&batch);
            let (found, tape) = trained.model.forward(&batch, &selection, 1.0).unwrap();
            for log_prob in &found.log_probs {
                scores.data.extend(log_prob.to_le_bytes());
            }
            scores.offsets.extend((scores.data.len() as i64).to_le_bytes());
            if request.forward_only {
                continue;
            }
            assert_eq!(request.loss_fn, "importance_sampling");
            assert!(!datum.loss_fn_inputs.contains_key("weights"));
            let floats = |name: &str| {
                let tensor = &datum.loss_fn_inputs[name];
                assert_eq!((tensor.dtype, &tensor.shape[..]), (1, &[targets.len() as i64][..]));
                let (values, _) = tensor.dense.as_chunks();
                values.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect::<Vec<f32>>()
            };
            let (old, advantages) = (floats("logprobs"), floats("advantages"));
            let share = match scale {
                Scale::Sum => 1.0,
                Scale::Jax => 1.0 / targets.len() as f32,
            };
            let slopes: Vec<f32> = (found.log_probs.iter().zip(&old).zip(&advantages))
                .map(|((new, old), advantage)| -(new - old).exp() * advantage * share)
                .collect();
            trained.model.backward(tape, &slopes, None, &mut trained.gradients).unwrap();
            trained.examples += 1;
        }
        record.fields.insert("elementwise_loss".into(), scores.clone());
        record.fields.insert("logprobs".into(), scores);
        Ok(Output { kind: "scalar".into(), loss_fn_outputs: vec![record] })
    }

    fn step(&mut self, id: &str, adam: &Value) -> Result<Value, String> {
        let scale = self.scale;
        let trained = self.trained(id)?;
        assert_eq!(
            (adam["beta2"].as_f64(), adam["weight_decay"].as_f64()),
            (Some(0.999), Some(0.0))
        );
        if scale == Scale::Jax {
            trained.gradients.scale(1.0 / trained.examples as f32).unwrap();
        }
        let clipped = clip(&mut trained.gradients, f64::INFINITY).unwrap();
        let norm = clipped.norm;
        let rate = adam["learning_rate"].as_f64().unwrap();
        trained.adamw.step(trained.model.trainable_mut(), &clipped, rate).unwrap();
        trained.gradients.clear().unwrap();
        trained.examples = 0;
        self.updates += 1;
        Ok(json!({ "metrics": { "skyrl.ai/grad_norm": norm, "skyrl.ai/learning_rate": rate } }))
    }

    fn folder(&self, model: &str, kind: &str, name: &str) -> PathBuf {
        self.saved.path().join(model).join(kind).join(name)
    }

    fn save(&mut self, id: &str, folder: &Path) -> Result<(), String> {
        let trained = self.trained(id)?;
        trained.model.save_trainable(&folder.join("trainable")).unwrap();
        trained.adamw.save(&folder.join("adamw")).unwrap();
        trained.model.adapter().unwrap().save(folder, None).unwrap();
        // SkyRL does not report what it adapts.
        let path = folder.join("adapter_config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config["target_modules"] = Value::Null;
        std::fs::write(path, config.to_string()).unwrap();
        Ok(())
    }

    fn checkpoint(&mut self, model: &str, rest: &str, is_delete: bool) -> Answer {
        if is_delete {
            let (kind, name) = rest.split_once('/').unwrap();
            std::fs::remove_dir_all(self.folder(model, kind, name)).unwrap();
            return (204, "application/json", Vec::new());
        }
        let (name, what) = rest.rsplit_once('/').unwrap();
        let folder = self.folder(model, "sampler_weights", name);
        if name.contains('/') || !folder.is_dir() {
            return problem(404, "Checkpoint not found");
        }
        if what == "archive" {
            let to = format!("/api/v1/training_runs/{model}/checkpoints/{name}/download");
            return (302, to.leak(), Vec::new());
        }
        let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            archive.append_path_with_name(folder.join(file), file).unwrap();
        }
        let mut bytes = archive.into_inner().unwrap();
        bytes.flush().unwrap();
        (200, "application/octet-stream", bytes.finish().unwrap())
    }
}

/// The result of a future.
struct Outcome(&'static str, Vec<u8>);

impl From<Value> for Outcome {
    fn from(value: Value) -> Self {
        Self("application/json", value.to_string().into())
    }
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        Self(PROTOBUF, output.encode_to_vec())
    }
}

#[derive(Clone, PartialEq, Message)]
struct Asked {
    #[prost(string, tag = "1")]
    model_id: String,
    #[prost(int32, tag = "2")]
    seq_id: i32,
    #[prost(message, repeated, tag = "3")]
    data: Vec<Datum>,
    #[prost(string, tag = "4")]
    loss_fn: String,
    #[prost(bool, tag = "6")]
    forward_only: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Datum {
    #[prost(message, repeated, tag = "1")]
    model_input: Vec<Chunk>,
    #[prost(map = "string, message", tag = "2")]
    loss_fn_inputs: HashMap<String, Tensor>,
}

#[derive(Clone, PartialEq, Message)]
struct Chunk {
    #[prost(message, optional, tag = "1")]
    encoded_text: Option<Text>,
}

#[derive(Clone, PartialEq, Message)]
struct Text {
    #[prost(bytes = "vec", tag = "1")]
    tokens: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Tensor {
    #[prost(bytes = "vec", tag = "1")]
    dense: Vec<u8>,
    #[prost(int32, tag = "3")]
    dtype: i32,
    #[prost(int64, repeated, tag = "4")]
    shape: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct Output {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(message, repeated, tag = "2")]
    loss_fn_outputs: Vec<Record>,
}

#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(map = "string, message", tag = "2")]
    fields: HashMap<String, Rows>,
    #[prost(int64, tag = "3")]
    num_datums: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Rows {
    #[prost(bytes = "vec", tag = "1")]
    data: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    offsets: Vec<u8>,
    #[prost(int32, tag = "3")]
    dtype: i32,
}
