//! A real PostgreSQL and a real Redis.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

/// Where they are.
#[derive(Clone)]
pub struct Services {
    pub postgres: String,
    pub redis: String,
    /// The same Redis over TLS.
    pub rediss: String,
    /// The folder of the certificates: Redis uses `redis.pem`, which `ca.pem` has signed, as well
    /// as `client.pem`; `other.pem` is unknown to it. The keys are next to them.
    pub certificates: PathBuf,
}

const VARIABLES: [&str; 4] = [
    "PROMPT_R1_TEST_POSTGRES",
    "PROMPT_R1_TEST_REDIS",
    "PROMPT_R1_TEST_REDISS",
    "PROMPT_R1_TEST_CERTIFICATES",
];

/// Services started for these tests; they end with their input, which is this process's.
static STARTED: Mutex<Option<(Child, Services)>> = Mutex::new(None);

impl Services {
    /// Those in environment variables, or ones that are started now.
    pub fn find() -> Self {
        let named: Vec<_> = VARIABLES.iter().filter_map(|name| std::env::var(name).ok()).collect();
        if named.len() == VARIABLES.len() {
            return Self::new(&named);
        }
        let mut started = STARTED.lock().unwrap();
        let (_, services) = started.get_or_insert_with(Self::start);
        services.clone()
    }

    fn new(named: &[String]) -> Self {
        let [postgres, redis, rediss, certificates] = named else { panic!("{named:?}") };
        Self {
            postgres: postgres.clone(),
            redis: redis.clone(),
            rediss: rediss.clone(),
            certificates: certificates.into(),
        }
    }

    fn start() -> (Child, Self) {
        let print = format!("echo \"${}\"; cat", VARIABLES.join(" $"));
        let mut script = Command::new("tests/services.sh");
        script.args(["sh", "-c", &print]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut script = script.spawn().expect("cannot start `tests/services.sh`");
        let mut line = String::new();
        BufReader::new(script.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let urls: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        assert!(urls.len() == VARIABLES.len(), "`tests/services.sh` said why it does not start");
        (script, Self::new(&urls))
    }
}
