//! Encrypted connections, users with few rights, sockets.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tagcache::{Cache, Credentials, Error, Servers};
use tagcache_tests::{
    DEADLINE, Engine, Server, ServerBuilder, args, command as cmd, for_each_engine, free_port,
};

use tokio::sync::Notify;

use crate::support::{Calls, cache_at, connected, eventually, long, on_server, run, warm};

/// Time between probes, so that the end of a connection is soon noticed.
const PROBE: Duration = Duration::from_millis(100);

struct Certificates {
    root: String,
    server: (String, String),
    client: (String, String),
    /// For the same server, but expired.
    expired: (String, String),
}

fn certificates() -> Certificates {
    let mut params = CertificateParams::new(Vec::new()).expect("no names at all");
    // Distinguished by name: OpenSSL takes a certificate for self-signed if its name is that of its issuer.
    params.distinguished_name.push(DnType::CommonName, "root");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let root = CertifiedIssuer::self_signed(params, key).expect("a root");
    let signed = |name: &str, until: i32| {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &root).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    };
    Certificates {
        root: root.pem(),
        server: signed("localhost", 4096),
        client: signed("client", 4096),
        expired: signed("localhost", 2001),
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
fn tls_connections_work_and_certificates_are_checked() {
    for_each_engine(|engine| {
        let dir = tempfile::tempdir().unwrap();
        let (certificates, port) = (certificates(), free_port());
        let server = match tls_server(engine, dir.path(), &certificates, port, "yes").try_start() {
            Ok(server) => server,
            // The distribution's server has TLS; some others are built without it.
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
            let (client, key) = certificates.client.clone();
            let elsewhere = Servers::single(format!("rediss://127.0.0.1:{port}"))
                .root_certificates(certificates.root.clone())
                .client_certificate(client, key);
            for (servers, reason) in [
                (Servers::single(&url), "UnknownIssuer"),
                (servers, "CertificateRequired"),
                (elsewhere, "not valid for name"),
            ] {
                let refusal = refusal(servers).await;
                assert!(refusal.contains(reason), "{reason}: {refusal}");
            }
            // The crate does not change the application's TLS settings.
            assert!(rustls::crypto::CryptoProvider::get_default().is_none());
        });
    });
}

/// The error of servers that cannot be used.
async fn refusal(servers: Servers) -> String {
    let building = Cache::builder(servers).connect_timeout(DEADLINE);
    let cache = building.build().await.unwrap();
    let error = cache.get::<String>("key").await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    error.to_string()
}

#[test]
fn expired_certificate_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (mut certificates, port) = (certificates(), free_port());
    certificates.server = certificates.expired.clone();
    let engine = Engine::default_engine();
    let builder = tls_server(&engine, dir.path(), &certificates, port, "no");
    let _server = builder.try_start().unwrap();
    run(async {
        let servers = Servers::single(format!("rediss://localhost:{port}"));
        let refusal = refusal(servers.root_certificates(certificates.root.clone())).await;
        assert!(refusal.to_lowercase().contains("expired"), "{refusal}");
    });
}

#[test]
fn invalid_root_certificates_are_refused_by_build() {
    run(async {
        let servers = Servers::single("rediss://localhost:1").root_certificates("no certificate");
        let error = Cache::builder(servers).build().await.unwrap_err();
        assert!(matches!(error, Error::Config { .. }), "{error}");
    });
}

#[test]
fn documented_permissions_suffice_for_everything_but_admin_calls() {
    for_each_engine(|engine| can_do_everything(&Server::builder().engine(engine).start()));
}

fn can_do_everything(server: &Server) {
    let rules = cmd!(
        "ACL SETUSER app on >secret ~shop:* &__cache@0__:invalidate -@all +ping +client|tracking +subscribe \
         +cache.fetch +cache.set +cache.del +cache.touch +cache.release +cache.hits +cache.invalidate +cache.revalidate"
    );
    let set = server.raw().call(&rules);
    assert!(!set.is_error(), "{set:?}");
    run(async {
        let url = format!("redis://app:secret@127.0.0.1:{}", server.port());
        let cache = connected(Cache::builder(&*url).namespace("shop")).await;
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
        assert_eq!(cache.revalidate_tags(["tag"]).await.unwrap(), 0);
        let error = cache.top(1).await.unwrap_err();
        assert!(
            matches!(&error, Error::Denied { message, .. } if message.contains("cache.top")),
            "{error}"
        );
        let elsewhere = connected(Cache::builder(&*url).namespace("other")).await;
        let error = elsewhere.get::<String>("key").await.unwrap_err();
        assert!(
            matches!(&error, Error::Denied { message, .. } if message.contains("\"other:key\"")),
            "{error}"
        );
    });
}

#[test]
fn missing_permission_is_named_in_the_error() {
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
            matches!(&error, Error::Denied { message, .. } if message.contains("__cache@0__:invalidate")),
            "{error}"
        );
        let wrong = Cache::builder(url("deaf:wrong")).build().await.unwrap();
        let error = wrong.get::<String>("key").await.unwrap_err();
        assert!(matches!(&error, Error::Denied { .. }), "{error}");
        assert!(
            !format!("{error} {wrong:?}").contains("wrong@"),
            "no password in messages"
        );
        // The administrator grants the right.
        server
            .raw()
            .call(&args!["ACL", "SETUSER", "deaf", "allchannels"]);
        deaf.ready(DEADLINE).await.unwrap();
    });
}

#[test]
fn unix_socket_and_another_database_work() {
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

#[test]
fn passwords_can_have_any_characters_and_are_never_shown() {
    let server = Server::start();
    let password = "p@:/?#[]% \u{e9}";
    let mut rule = b">".to_vec();
    rule.extend_from_slice(password.as_bytes());
    let set = server.raw().call(&args![
        "ACL", "SETUSER", "app", "on", rule, "~*", "&*", "+@all"
    ]);
    assert!(!set.is_error(), "{set:?}");
    run(async {
        let encoded = "p%40%3A%2F%3F%23%5B%5D%25%20%C3%A9";
        // The crate chooses the protocol.
        let url = format!(
            "redis://app:{encoded}@127.0.0.1:{}/?protocol=resp2",
            server.port()
        );
        let building = Cache::builder(&*url);
        let servers = [
            Servers::single(&url),
            Servers::cluster([&url]),
            Servers::sentinel("service", [&url]).primary(&url),
            Servers::single("redis://user:p%40@host:port"),
        ];
        let cache = connected(building.clone()).await;
        let shown = format!("{building:?} {servers:?} {cache:?} {:?}", cache.stats());
        for secret in [password, encoded, "app", "p%40", "p@"] {
            assert!(!shown.contains(secret), "{shown}");
        }
        assert!(shown.contains(&server.port().to_string()), "{shown}");
        for unreadable in [
            "redis://user:se cret@[::1",
            "redis://user:secret@host:port",
            "nonsense",
        ] {
            let error = Cache::builder(unreadable).build().await.unwrap_err();
            assert!(matches!(error, Error::Config { .. }), "{error}");
            assert!(!format!("{error} {error:?}").contains("cret"), "{error}");
        }
    });
}

#[test]
fn ipv6_addresses_work() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        println!("no IPv6 here: skipped");
        return;
    }
    let server = Server::builder()
        .args("--bind", &["127.0.0.1", "::1"])
        .start();
    run(async {
        let cache = connected(Cache::builder(format!("redis://[::1]:{}", server.port()))).await;
        cache.set("key", &"value".to_owned(), long()).await.unwrap();
        assert_eq!(warm(&cache, "key").await.as_deref(), Some("value"));
    });
}

/// Ends all connections but the test's own.
fn end_connections(server: &Server) {
    let ended = server.raw().call(&args!["CLIENT", "KILL", "SKIPME", "yes"]);
    assert!(!ended.is_error(), "{ended:?}");
}

#[test]
fn rotated_password_is_requested_again() {
    for_each_engine(|engine| {
        let server = Server::builder().engine(engine).start();
        let set = |rules: &str| {
            let set = server
                .raw()
                .call(&cmd!("ACL SETUSER app on ~* &* +@all {rules}"));
            assert!(!set.is_error(), "{set:?}");
        };
        set(">first");
        let current = Arc::new(Mutex::new("first".to_owned()));
        let provided = Arc::clone(&current);
        let servers = Servers::single(format!("redis://app@127.0.0.1:{}", server.port()));
        let servers = servers.credentials(move || {
            let current = provided.lock().unwrap().clone();
            match current.as_str() {
                "" => Err("the vault is closed"),
                "panic" => panic!("as the test wants it"),
                password => Ok(Credentials::password(password)),
            }
        });
        run(async {
            let building = Cache::builder(servers);
            assert!(!format!("{building:?}").contains("first"));
            let cache = connected(building.probe(PROBE, DEADLINE)).await;
            cache.set("key", &"value".to_owned(), long()).await.unwrap();
            set("resetpass >second");
            "second".clone_into(&mut current.lock().unwrap());
            // Existing connections stay; one for waiting calls is opened only now.
            let (entered, hold) = (Calls::default(), Arc::new(Notify::new()));
            let loading = {
                let (cache, entered, hold) =
                    (cache_at(&server).await, entered.clone(), Arc::clone(&hold));
                tokio::spawn(async move {
                    let loader = async move || {
                        entered.note();
                        hold.notified().await;
                        Ok::<_, String>("loaded".to_owned())
                    };
                    cache.get_or_load("slow", long(), loader).await
                })
            };
            eventually("it is being loaded", async || entered.count() == 1).await;
            let waiting = {
                let cache = cache.clone();
                let loader = || async { Err::<String, _>("it is not its turn") };
                tokio::spawn(async move { cache.get_or_load("slow", long(), loader).await })
            };
            eventually("it waits", async || cache.stats().lease_waits == 1).await;
            hold.notify_one();
            assert_eq!(waiting.await.unwrap().unwrap(), "loaded");
            assert_eq!(loading.await.unwrap().unwrap(), "loaded");
            end_connections(&server);
            eventually("it is connected again", async || {
                cache
                    .get::<String>("key")
                    .await
                    .is_ok_and(|value| value.is_some())
            })
            .await;
            for (state, expected) in [("", "the vault is closed"), ("panic", "panicked")] {
                state.clone_into(&mut current.lock().unwrap());
                end_connections(&server);
                eventually("the error says why", async || {
                    let read = cache.get::<String>("other").await;
                    read.is_err_and(|error| error.to_string().contains(expected))
                })
                .await;
            }
            "second".clone_into(&mut current.lock().unwrap());
            cache.ready(DEADLINE).await.unwrap();
        });
    });
}

#[test]
fn replaced_certificates_are_used_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (old, port) = (certificates(), free_port());
    let engine = Engine::default_engine();
    let builder = tls_server(&engine, dir.path(), &old, port, "yes");
    let server = builder.try_start().unwrap();
    let credentials = |certificates: &Certificates| {
        let (client, key) = certificates.client.clone();
        Credentials::default()
            .root_certificates(certificates.root.clone())
            .client_certificate(client, key)
    };
    let current = Arc::new(Mutex::new(credentials(&old)));
    let provided = Arc::clone(&current);
    let servers = Servers::single(format!("rediss://localhost:{port}"));
    let servers = servers.credentials(move || Ok::<_, String>(provided.lock().unwrap().clone()));
    run(async {
        let cache = connected(Cache::builder(servers).probe(PROBE, DEADLINE)).await;
        cache.set("key", &"value".to_owned(), long()).await.unwrap();
        // From now on another authority signs.
        let new = certificates();
        let _ = tls_server(&engine, dir.path(), &new, port, "yes");
        let file = |name: &str| dir.path().join(name).display().to_string();
        let set = server.raw().call(&args![
            "CONFIG",
            "SET",
            "tls-ca-cert-file",
            file("ca.crt"),
            "tls-cert-file",
            file("server.crt"),
            "tls-key-file",
            file("server.key")
        ]);
        assert!(!set.is_error(), "{set:?}");
        end_connections(&server);
        eventually("the old certificates are refused", async || {
            let read = cache.get::<String>("other").await;
            read.is_err_and(|error| error.to_string().contains("invalid peer certificate"))
        })
        .await;
        *current.lock().unwrap() = credentials(&new);
        cache.ready(DEADLINE).await.unwrap();
        let value = cache.get::<String>("key").await.unwrap();
        assert_eq!(value.as_deref(), Some("value"));
    });
}
