//! Real servers beside the binary: `scripts/parts` installs, starts and stops them. They need Java, so they run only if TEST_PARTS is set (`make test` sets it).

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

use chainalytics_benches::parts;
use tempfile::TempDir;

/// Two cores carry one set of parts at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The S3 store by the platform's keys, which are PyIceberg's too.
const S3: [(&str, &str); 3] = [("s3.endpoint", "S3_ENDPOINT"), ("s3.access-key-id", "S3_ACCESS_KEY_ID"), ("s3.secret-access-key", "S3_SECRET_ACCESS_KEY")];

/// Parts that run; they stop with the value, the last one first.
pub struct Parts {
    /// Stopped before its directory goes.
    parts: parts::Parts,
    _dir: TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Parts {
    /// `None`, with the reason printed, if the tests run without parts.
    pub fn start(names: &[&str], offset: u16) -> Option<Self> {
        Self::start_with(names, offset, &[])
    }

    /// The same with environment variables for the scripts.
    #[allow(clippy::print_stdout)]
    pub fn start_with(names: &[&str], offset: u16, settings: &[(&str, String)]) -> Option<Self> {
        if std::env::var_os("TEST_PARTS").is_none() {
            println!("skipped: TEST_PARTS is not set, so no {} is installed and started", names.join(", "));
            return None;
        }
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // PostgreSQL does not run as root: whoever runs it instead must get through.
        let dir = tempfile::Builder::new().prefix("chainalytics-parts-").permissions(PermissionsExt::from_mode(0o755)).tempdir().unwrap();
        let parts = parts::Parts::new(dir.path(), offset, settings).unwrap();
        let mut parts = Self { parts, _dir: dir, _alone: alone };
        for name in names {
            parts.up(name);
        }
        Some(parts)
    }

    /// Starts a part, also again after [`Self::down`], with the same data and ports.
    pub fn up(&mut self, name: &str) {
        self.try_up(name).unwrap();
    }

    /// The same for one that was killed and may hold on to its port for a moment.
    pub fn try_up(&mut self, name: &str) -> Result<(), String> {
        self.parts.up(name)
    }

    pub fn down(&self, name: &str) {
        self.parts.down(name).unwrap();
    }

    /// Process id of a running part.
    pub fn pid(&self, name: &str) -> i64 {
        self.parts.pid(name).unwrap().into()
    }

    /// Where a part's own output goes.
    pub fn log(&self, name: &str) -> PathBuf {
        self.parts.log(name)
    }

    /// What a part says about itself.
    pub fn get(&self, key: &str) -> &str {
        self.parts.get(key).unwrap()
    }

    /// Settings of the platform, each the word of a part: `--conf`, `key=value`, ...
    pub fn conf_of(&self, pairs: &[(&str, &str)]) -> Vec<String> {
        pairs.iter().flat_map(|(key, part)| ["--conf".to_owned(), format!("{key}={}", self.get(part))]).collect()
    }

    /// The S3 store as the platform is told about it; all catalogs share it.
    pub fn s3_conf(&self) -> Vec<String> {
        self.conf_of(&S3)
    }

    /// The same for PyIceberg.
    pub fn python_properties(&self) -> Vec<String> {
        let mut all: Vec<String> = S3.iter().map(|(key, part)| format!("{key}={}", self.get(part))).collect();
        all.push("s3.region=us-east-1".to_owned());
        all
    }
}
