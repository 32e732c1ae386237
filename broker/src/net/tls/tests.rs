use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;
use tokio::time::{Duration, sleep};

use crate::net::{
    endpoint::{ClientAuth, TlsFiles},
    tls::{certificate::Certificate, reload::Reloader},
};

/// Files in a folder, and the endpoint that uses them.
struct Files {
    folder: TempDir,
    certificate: Arc<Certificate>,
}

impl Files {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        write_pair(folder.path());
        Self { certificate: load(folder.path()), folder }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }
}

fn load(folder: &Path) -> Arc<Certificate> {
    let (key, cert) = (folder.join("key.pem"), folder.join("cert.pem"));
    let files = TlsFiles { key, cert, chain: None, client_ca: None, client_auth: ClientAuth::Required };
    Arc::new(Certificate::load("tls:port=1".to_owned(), files).unwrap())
}

fn write_pair(folder: &Path) {
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    fs::write(folder.join("cert.pem"), cert.pem()).unwrap();
    fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
}

/// Lets the watch look three times. Whether it has loaded another certificate.
async fn reloaded(certificate: &Certificate, change: impl FnOnce()) -> bool {
    let before = certificate.config();
    change();
    sleep(Duration::from_secs(3)).await;
    !Arc::ptr_eq(&before, &certificate.config())
}

fn watch(certificate: &Arc<Certificate>) -> tokio::task::JoinHandle<()> {
    let reloader = Reloader::new(std::iter::once((([127, 0, 0, 1], 1).into(), certificate.clone())));
    tokio::spawn(async move { reloader.watch().await })
}

#[tokio::test(start_paused = true)]
async fn files_are_read_again_when_they_have_changed_and_only_then() {
    let files = Files::new();
    let watching = watch(&files.certificate);
    assert!(!reloaded(&files.certificate, || {}).await);
    assert!(reloaded(&files.certificate, || write_pair(files.folder.path())).await, "written");
    assert!(!reloaded(&files.certificate, || {}).await);
    let renamed = || {
        let new = TempDir::new_in(files.folder.path()).unwrap();
        write_pair(new.path());
        for file in ["cert.pem", "key.pem"] {
            fs::rename(new.path().join(file), files.path(file)).unwrap();
        }
    };
    assert!(reloaded(&files.certificate, renamed).await, "renamed");
    watching.abort();
}

#[tokio::test(start_paused = true)]
async fn unusable_pair_leaves_the_old_one_until_it_is_mended() {
    let files = Files::new();
    let watching = watch(&files.certificate);
    let new = TempDir::new().unwrap();
    write_pair(new.path());
    let copy = |file: &str| {
        fs::copy(new.path().join(file), files.path(file)).unwrap();
    };
    assert!(!reloaded(&files.certificate, || copy("key.pem")).await);
    assert!(!reloaded(&files.certificate, || fs::remove_file(files.path("cert.pem")).unwrap()).await);
    assert!(!reloaded(&files.certificate, || fs::write(files.path("cert.pem"), "-----BEGIN").unwrap()).await);
    assert!(reloaded(&files.certificate, || copy("cert.pem")).await);
    watching.abort();
}

/// As Kubernetes replaces secrets: `cert.pem` is a link into `..data`, which is a link to a folder,
/// which is turned.
#[cfg(unix)]
#[tokio::test(start_paused = true)]
async fn links_are_followed_and_may_be_turned_anywhere() {
    use std::os::unix::fs::symlink;
    let folder = TempDir::new().unwrap();
    let path = |file: &str| folder.path().join(file);
    for version in ["1", "2"] {
        fs::create_dir(path(version)).unwrap();
        write_pair(&path(version));
    }
    symlink("1", path("..data")).unwrap();
    for file in ["cert.pem", "key.pem"] {
        symlink(format!("..data/{file}"), path(file)).unwrap();
    }
    let certificate = load(folder.path());
    let watching = watch(&certificate);
    let turn = || {
        symlink("2", path("new")).unwrap();
        fs::rename(path("new"), path("..data")).unwrap();
    };
    assert!(reloaded(&certificate, turn).await);
    watching.abort();
}
