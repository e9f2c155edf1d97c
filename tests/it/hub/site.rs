//! A hub on this machine: the part of the Hugging Face hub's protocol that clients use.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::task::AbortHandle;

/// A repository at one of its revisions.
#[derive(Clone, Default)]
pub struct Repository {
    pub sha: String,
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Repository {
    /// The files of a folder and its subfolders.
    pub fn of(sha: &str, folder: &Path) -> Self {
        let mut files = BTreeMap::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(next) = folders.pop() {
            for entry in next.read_dir().unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(folder).unwrap().to_str().unwrap();
                    files.insert(name.to_owned(), std::fs::read(&path).unwrap());
                }
            }
        }
        Self { sha: sha.to_owned(), files }
    }

    pub fn with(mut self, name: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.files.insert(name.to_owned(), bytes.into());
        self
    }
}

/// The hub. Stops when dropped.
pub struct Site {
    pub url: String,
    shared: Arc<Shared>,
    serving: AbortHandle,
}

struct Shared {
    /// The required token.
    token: String,
    /// The host of large files.
    store: String,
    repositories: Mutex<BTreeMap<String, Repository>>,
    /// A response instead of a model's files.
    said: Mutex<BTreeMap<String, (u16, &'static str)>>,
    /// A file that is unavailable.
    broken: Mutex<Option<String>>,
    /// A large file that is damaged in transit.
    spoilt: Mutex<Option<String>>,
    asked: Mutex<Vec<String>>,
}

impl Site {
    /// A hub that requires this token.
    pub async fn start(token: &str) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            token: format!("Bearer {token}"),
            // Another host, as with the real one.
            store: format!("http://localhost:{port}"),
            repositories: Mutex::default(),
            said: Mutex::default(),
            broken: Mutex::default(),
            spoilt: Mutex::default(),
            asked: Mutex::default(),
        });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let serving = async move { axum::serve(listener, router).await };
        let serving = tokio::spawn(serving).abort_handle();
        Self { url: format!("http://127.0.0.1:{port}"), shared, serving }
    }

    pub fn publish(&self, id: &str, repository: Repository) {
        self.shared.repositories.lock().unwrap().insert(id.to_owned(), repository);
    }

    /// Responds with this for a model.
    pub fn say(&self, id: &str, status: u16, body: &'static str) {
        self.shared.said.lock().unwrap().insert(id.to_owned(), (status, body));
    }

    /// Makes a file unavailable, or none.
    pub fn break_file(&self, name: Option<&str>) {
        *self.shared.broken.lock().unwrap() = name.map(str::to_owned);
    }

    /// Damages a large file in transit, or none.
    pub fn spoil_file(&self, name: Option<&str>) {
        *self.shared.spoilt.lock().unwrap() = name.map(str::to_owned);
    }

    /// The files requested since the last call, each once.
    pub fn asked(&self) -> Vec<String> {
        let mut asked = std::mem::take(&mut *self.shared.asked.lock().unwrap());
        asked.sort();
        asked.dedup();
        asked
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let path = request.uri().path();
    let path = path.strip_prefix('/').unwrap_or(path).to_owned();
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    if let Some(path) = path.strip_prefix("store/") {
        let mut bytes = shared.bytes(path);
        if shared.spoilt.lock().unwrap().as_deref().is_some_and(|name| path.ends_with(name)) {
            bytes[0] ^= 1;
        }
        return part(&bytes, header(header::RANGE)).into_response();
    }
    if header(header::AUTHORIZATION) != Some(shared.token.as_str()) {
        return (StatusCode::UNAUTHORIZED, "Invalid username or password.").into_response();
    }
    let known = |id: &str| shared.repositories.lock().unwrap().get(id).cloned();
    if let Some((id, _)) =
        path.strip_prefix("api/models/").and_then(|path| path.split_once("/revision/"))
    {
        if let Some(&(status, body)) = shared.said.lock().unwrap().get(id) {
            return (StatusCode::from_u16(status).unwrap(), body).into_response();
        }
        return match known(id) {
            None => StatusCode::NOT_FOUND.into_response(),
            Some(found) => {
                let files = found.files.keys().map(|name| json!({"rfilename": name}));
                let files = files.collect::<Vec<_>>();
                axum::Json(json!({"siblings": files, "sha": found.sha})).into_response()
            }
        };
    }
    let Some((id, (sha, name))) =
        path.split_once("/resolve/").and_then(|(id, rest)| Some((id, rest.split_once('/')?)))
    else {
        return StatusCode::NOT_FOUND.into_response();
    };
    shared.asked.lock().unwrap().push(name.to_owned());
    if shared.broken.lock().unwrap().as_deref() == Some(name) {
        return StatusCode::BAD_GATEWAY.into_response();
    }
    let Some(found) = known(id).filter(|found| found.sha == sha) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let Some(bytes) = found.files.get(name) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    if name.ends_with(".safetensors") || name.ends_with(".gguf") {
        // Large files are named by their SHA-256.
        let etag = format!("\"{:x}\"", Sha256::digest(bytes));
        let location = format!("{}/store/{id}/{name}", shared.store);
        let headers = [
            ("x-repo-commit", sha),
            ("x-linked-etag", etag.as_str()),
            ("location", location.as_str()),
        ];
        return (StatusCode::FOUND, headers).into_response();
    }
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    let etag = format!("\"{:016x}\"", hasher.finish());
    let headers = [("x-repo-commit", sha), ("etag", etag.as_str())];
    (headers, part(bytes, header(header::RANGE))).into_response()
}

impl Shared {
    /// The file at `someone/model/file`.
    fn bytes(&self, path: &str) -> Vec<u8> {
        let mut parts = path.splitn(3, '/');
        let id = [parts.next().unwrap(), parts.next().unwrap()].join("/");
        self.repositories.lock().unwrap()[&id].files[parts.next().unwrap()].clone()
    }
}

/// The requested range of a file.
fn part(bytes: &[u8], range: Option<&str>) -> Response {
    let wanted = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let (first, last): (usize, usize) =
        wanted.map(|(first, last)| (first.parse().unwrap(), last.parse().unwrap())).unwrap();
    if first >= bytes.len() {
        return StatusCode::RANGE_NOT_SATISFIABLE.into_response();
    }
    let last = last.min(bytes.len() - 1);
    let range = format!("bytes {first}-{last}/{}", bytes.len());
    let bytes = bytes[first..=last].to_vec();
    (StatusCode::PARTIAL_CONTENT, [(header::CONTENT_RANGE, range)], bytes).into_response()
}
