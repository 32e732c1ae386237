//! Keys and certificates of TLS endpoints: their files, their chains, and their replacement.

use std::{fs, path::PathBuf, time::Duration};

use hpfeeds_broker::{Broker, ClientAuth, Endpoint, StartError};
use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use tokio_rustls::rustls::HandshakeKind;

use super::{broker, works};
use crate::{
    pki::{ALL, Pki, TLS12, TlsPeer, authority},
    support::{number, numbered, publish, within},
};

#[tokio::test]
async fn keys_have_any_of_the_formats_of_openssl() {
    let pki = Pki::new();
    for (key, format) in [("ec", "pkcs8"), ("ec", "sec1"), ("rsa", "pkcs8"), ("rsa", "pkcs1")] {
        let text = |format: &str| fs::read_to_string(format!("tests/fixtures/{key}-{format}.pem")).unwrap();
        pki.write("cert.pem", pki.sign(&KeyPair::from_pem(&text("pkcs8")).unwrap(), "localhost"));
        pki.write("key.pem", text(format));
        let broker = broker(pki.endpoint()).await;
        for versions in [ALL, TLS12] {
            works(broker.local_addr(), &pki.client_of(versions, None)).await;
        }
    }
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    let pki = Pki::new();
    let other = Pki::new();
    pki.write("encrypted.pem", fs::read("tests/fixtures/ec-encrypted.pem").unwrap());
    pki.write("broken.pem", "-----BEGIN PRIVATE KEY-----\nhunter2!\n-----END PRIVATE KEY-----\n");
    // As it comes out of a variable that has lost its line breaks.
    pki.write("flat.pem", "-----BEGIN PRIVATE KEY----- hunter2! -----END PRIVATE KEY-----");
    let (cert, key, ca) = (pki.path("cert.pem"), pki.path("key.pem"), pki.path("ca.pem"));
    let tls = |cert, key| Endpoint::tls("127.0.0.1", 0, cert, key);
    let at = |file: &str| pki.path(file).display().to_string();
    let openssl = |file: &str| PathBuf::from("../tests/support/certificates").join(file);
    let unsupported = |file: &str| {
        format!(
            "key {}: its kind is not supported: use a key of P-256, P-384, Ed25519, or RSA",
            openssl(file).display()
        )
    };
    let cases = [
        (tls(pki.path("no.pem"), key.clone()), format!("cert {}: No such file or directory", at("no.pem"))),
        (tls(cert.clone(), pki.path("no.pem")), format!("key {}: No such file or directory", at("no.pem"))),
        (tls(key.clone(), key.clone()), format!("cert {}: it holds no PEM certificate", at("key.pem"))),
        (tls(cert.clone(), cert.clone()), format!("key {}: it holds no PEM private key", at("cert.pem"))),
        (tls(cert.clone(), pki.path("encrypted.pem")), format!("key {}: it is encrypted", at("encrypted.pem"))),
        (tls(cert.clone(), pki.path("broken.pem")), format!("key {}: it is no valid PEM", at("broken.pem"))),
        (tls(cert.clone(), pki.path("flat.pem")), format!("key {}: it is no valid PEM", at("flat.pem"))),
        (tls(pki.path("flat.pem"), key.clone()), format!("cert {}: it is no valid PEM", at("flat.pem"))),
        (
            tls(cert.clone(), other.path("key.pem")),
            format!(
                "cert {} with key {}: the certificate is not that of the key",
                at("cert.pem"),
                other.path("key.pem").display()
            ),
        ),
        (tls(openssl("p521.pem"), openssl("p521.key")), unsupported("p521.key")),
        (tls(openssl("rsa-1024.pem"), openssl("rsa-1024.key")), unsupported("rsa-1024.key")),
        (pki.endpoint().chain(pki.path("no.pem")), format!("chain {}: No such file", at("no.pem"))),
        (
            pki.endpoint().client_ca(pki.path("no.pem"), ClientAuth::Required),
            format!("clientca {}: No such file", at("no.pem")),
        ),
        (
            pki.endpoint().client_ca(key, ClientAuth::Required),
            format!("clientca {}: it holds no PEM certificate", at("key.pem")),
        ),
    ];
    assert!(ca.exists());
    for (endpoint, expected) in cases {
        let named = format!("endpoint {:?}: {expected}", endpoint.to_string());
        let error = Broker::dev_builder().endpoint(endpoint).start().await.unwrap_err();
        assert!(matches!(error, StartError::Tls(_)), "{error:?}");
        assert!(error.to_string().starts_with(&named), "{error}\n{named}");
        // In figures: hunter2, as some parsers quote bytes.
        for secret in ["hunter2", "104, 117, 110"] {
            assert!(!error.to_string().contains(secret), "{error}");
        }
    }
}

#[tokio::test]
async fn a_chain_is_sent_after_the_certificate() {
    let pki = Pki::new();
    let between = CertifiedIssuer::signed_by(authority(), KeyPair::generate().unwrap(), &pki.ca).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, &between).unwrap();
    pki.write("key.pem", key.serialize_pem());
    pki.write("cert.pem", leaf.pem());
    pki.write("chain.pem", between.pem());
    let client = pki.client(None);
    let without = broker(pki.endpoint()).await;
    assert!(TlsPeer::try_dev(without.local_addr(), &client).await.is_err());
    works(broker(pki.endpoint().chain(pki.path("chain.pem"))).await.local_addr(), &client).await;
    // Or all in one file, as certbot writes it.
    pki.write("cert.pem", leaf.pem() + &between.pem());
    works(broker(pki.endpoint()).await.local_addr(), &client).await;
}

#[tokio::test]
async fn a_certificate_is_replaced_under_load_without_a_dropped_connection() {
    const MESSAGES: u64 = 400;
    let pki = Pki::new();
    let broker = broker(pki.endpoint()).await;
    let config = pki.client(None);
    let mut reader = TlsPeer::subscriber(broker.local_addr(), &config, "c").await;
    let mut writer = TlsPeer::dev(broker.local_addr(), &config).await;
    let mut certificates = vec![reader.certificate()];
    for n in 0..MESSAGES {
        writer.send(publish("dev", "c", numbered(n, 10_000))).await;
        if n % 100 == 50 {
            pki.issue("cert.pem", "key.pem", "localhost");
            broker.reload().await.unwrap();
            // A new configuration each time, so that no session is resumed.
            let mut new = TlsPeer::dev(broker.local_addr(), &pki.client(None)).await;
            new.settle().await;
            assert!(!certificates.contains(&new.certificate()));
            certificates.push(new.certificate());
        }
    }
    for n in 0..MESSAGES {
        assert_eq!(number(&reader.next().await.unwrap()), n);
    }
}

#[tokio::test]
async fn a_bad_pair_keeps_the_old_one() {
    let pki = Pki::new();
    let broker = broker(pki.endpoint()).await;
    let old = TlsPeer::dev(broker.local_addr(), &pki.client(None)).await.certificate();
    // A key of another certificate.
    pki.write("key.pem", KeyPair::generate().unwrap().serialize_pem());
    let error = broker.reload().await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("endpoint {:?}: cert ", pki.endpoint().to_string())), "{error}");
    assert!(error.ends_with("the certificate is not that of the key"), "{error}");
    fs::remove_file(pki.path("cert.pem")).unwrap();
    assert!(broker.reload().await.is_err());
    assert_eq!(TlsPeer::dev(broker.local_addr(), &pki.client(None)).await.certificate(), old);
    pki.issue("cert.pem", "key.pem", "localhost");
    broker.reload().await.unwrap();
    assert_ne!(TlsPeer::dev(broker.local_addr(), &pki.client(None)).await.certificate(), old);
}

/// By itself, without being told. The ways in which files change are tested without sockets.
#[tokio::test]
async fn a_certificate_that_is_renewed_is_noticed() {
    let pki = Pki::new();
    let broker = broker(pki.endpoint()).await;
    let old = TlsPeer::dev(broker.local_addr(), &pki.client(None)).await.certificate();
    pki.issue("new-cert.pem", "new-key.pem", "localhost");
    for file in ["cert.pem", "key.pem"] {
        fs::rename(pki.path(&format!("new-{file}")), pki.path(file)).unwrap();
    }
    within(async {
        while TlsPeer::dev(broker.local_addr(), &pki.client(None)).await.certificate() == old {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn sessions_are_resumed_but_not_past_a_new_certificate() {
    let pki = Pki::new();
    let broker = broker(pki.endpoint()).await;
    for versions in [ALL, TLS12] {
        let config = pki.client_of(versions, None);
        let kind = async || {
            let mut peer = TlsPeer::dev(broker.local_addr(), &config).await;
            peer.settle().await;
            peer.framed.get_ref().get_ref().1.handshake_kind().unwrap()
        };
        assert_eq!((kind().await, kind().await), (HandshakeKind::Full, HandshakeKind::Resumed));
        broker.reload().await.unwrap();
        assert_eq!(kind().await, HandshakeKind::Full);
    }
}
