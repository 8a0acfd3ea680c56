//! Encrypted connections, users with few rights, sockets.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tagcache::{Cache, Error, Servers};
use tagcache_tests::{DEADLINE, Engine, Server, ServerBuilder, args, for_each_engine, free_port};

use crate::support::{cache_at, connected, long, on_server, run, warm};

struct Certificates {
    root: String,
    server: (String, String),
    client: (String, String),
}

fn certificates() -> Certificates {
    let mut params = CertificateParams::new(Vec::new()).expect("no names at all");
    // Told apart by name: OpenSSL takes a certificate that is called like its issuer for self-signed.
    params.distinguished_name.push(DnType::CommonName, "root");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let root = CertifiedIssuer::self_signed(params, key).expect("a root");
    let signed = |name: &str| {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &root).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    };
    Certificates {
        root: root.pem(),
        server: signed("localhost"),
        client: signed("client"),
    }
}

fn tls_server(
    engine: &Engine,
    dir: &Path,
    certificates: &Certificates,
    port: u16,
    clients: &str,
) -> ServerBuilder {
    let write = |name: &str, pem: &str| {
        let path = dir.join(name);
        std::fs::write(&path, pem).expect("a file in our own directory");
        path.display().to_string()
    };
    Server::builder()
        .engine(engine)
        .arg("--tls-port", &port.to_string())
        .arg(
            "--tls-cert-file",
            &write("server.crt", &certificates.server.0),
        )
        .arg(
            "--tls-key-file",
            &write("server.key", &certificates.server.1),
        )
        .arg("--tls-ca-cert-file", &write("ca.crt", &certificates.root))
        .arg("--tls-auth-clients", clients)
}

#[test]
fn connections_can_be_encrypted_and_certificates_are_checked() {
    for_each_engine(|engine| {
        let dir = tempfile::tempdir().unwrap();
        let (certificates, port) = (certificates(), free_port());
        let server = match tls_server(engine, dir.path(), &certificates, port, "yes").try_start() {
            Ok(server) => server,
            // The distribution's server has TLS; some others are built without.
            Err(log) if log.contains("TLS") || log.contains("Bad directive") => {
                assert_ne!(engine.name, "redis-7.0", "{log}");
                println!("{} has no TLS: skipped", engine.name);
                return;
            }
            Err(log) => panic!("{log}"),
        };
        run(async {
            let url = format!("rediss://localhost:{port}");
            let (client, key) = certificates.client.clone();
            let servers = Servers::single(&url).root_certificates(certificates.root.clone());
            let trusted = servers.clone().client_certificate(client, key);
            let cache = connected(Cache::builder(trusted)).await;
            cache.set("key", &"value".to_owned(), long()).await.unwrap();
            assert_eq!(warm(&cache, "key").await.as_deref(), Some("value"));
            // Pushes come encrypted as well.
            cache_at(&server).await.remove("key").await.unwrap();
            crate::support::eventually("it is gone", async || {
                cache.get::<String>("key").await.unwrap().is_none()
            })
            .await;
            let distrustful = Cache::builder(Servers::single(&url)).build().await.unwrap();
            assert!(
                distrustful.get::<String>("key").await.is_err(),
                "a root that nobody trusts"
            );
            let nameless = Cache::builder(servers).build().await.unwrap();
            assert!(
                nameless.get::<String>("key").await.is_err(),
                "a client without a certificate"
            );
        });
    });
}

#[test]
fn a_user_with_just_the_rights_that_the_readme_names_can_do_everything_but_administer() {
    let server = Server::start();
    let rules = [
        "ACL",
        "SETUSER",
        "app",
        "on",
        ">secret",
        "~shop:*",
        "&__cache@0__:invalidate",
        "-@all",
        "+@connection",
        "+client|tracking",
        "+subscribe",
        "+cache.fetch",
        "+cache.set",
        "+cache.del",
        "+cache.touch",
        "+cache.release",
        "+cache.hits",
        "+cache.invalidate",
        "+cache.revalidate",
    ];
    let set = server.raw().call(&rules);
    assert!(!set.is_error(), "{set:?}");
    run(async {
        let url = format!("redis://app:secret@127.0.0.1:{}", server.port());
        let cache = connected(Cache::builder(url).namespace("shop")).await;
        let loaded = cache.get_or_load("key", long().tags(["tag"]), || async {
            Ok::<_, String>("value".to_owned())
        });
        assert_eq!(loaded.await.unwrap(), "value");
        assert_eq!(warm(&cache, "key").await.as_deref(), Some("value"));
        assert!(cache.touch("key", long()).await.unwrap());
        assert_eq!(cache.invalidate_tags(["tag"]).await.unwrap(), 1);
        cache.set("key", &1, long()).await.unwrap();
        assert_eq!(cache.clear().await.unwrap(), 1);
        assert!(!cache.remove("key").await.unwrap());
        let error = cache.top(1).await.unwrap_err();
        assert!(
            matches!(&error, Error::Denied { message, .. } if message.contains("cache.top")),
            "{error}"
        );
    });
}

#[test]
fn what_a_user_may_not_is_said_by_name() {
    let server = Server::start();
    server.raw().call(&args![
        "ACL",
        "SETUSER",
        "deaf",
        "on",
        ">secret",
        "~*",
        "+@all",
        "resetchannels"
    ]);
    run(async {
        let url = |user: &str| format!("redis://{user}@127.0.0.1:{}", server.port());
        let deaf = Cache::builder(url("deaf:secret")).build().await.unwrap();
        let error = deaf.get::<String>("key").await.unwrap_err();
        assert!(
            matches!(&error, Error::Denied { message, .. } if message.contains("channel")),
            "{error}"
        );
        let wrong = Cache::builder(url("deaf:wrong")).build().await.unwrap();
        let error = wrong.get::<String>("key").await.unwrap_err();
        assert!(matches!(&error, Error::Denied { .. }), "{error}");
        assert!(
            !format!("{error} {wrong:?}").contains("wrong@"),
            "no password in messages"
        );
        // The administrator puts it right.
        server
            .raw()
            .call(&args!["ACL", "SETUSER", "deaf", "allchannels"]);
        deaf.ready(DEADLINE).await.unwrap();
    });
}

#[test]
fn a_socket_and_another_database_serve_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let server = Server::builder()
        .arg("--unixsocket", &path.display().to_string())
        .start();
    run(async {
        let cache = connected(Cache::builder(format!("unix://{}?db=3", path.display()))).await;
        cache
            .set("key", &"value".to_owned(), long().tags(["tag"]))
            .await
            .unwrap();
        assert_eq!(warm(&cache, "key").await.as_deref(), Some("value"));
        let mut other = server.raw();
        assert_eq!(on_server(&mut other, "key"), None);
        other.call(&args!["SELECT", 3]);
        assert!(on_server(&mut other, "key").is_some());
        other.call(&args!["CACHE.INVALIDATE", "tag"]);
        crate::support::eventually("it is gone", async || {
            cache.get::<String>("key").await.unwrap().is_none()
        })
        .await;
    });
}
