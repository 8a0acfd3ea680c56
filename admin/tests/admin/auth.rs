use std::net::SocketAddr;
use std::num::NonZeroU32;

use axum::Extension;
use axum::extract::ConnectInfo;
use tagcache_admin::http::{Access, Admin, Auth, Caller, Denied, ServeError, serve};
use tokio::net::TcpListener;

use crate::endpoint::{Answer, Endpoint, Guide, READER, TOKEN, builder, monitor, tokens};

const STATS: &str = "/api/admin/memory-stats";
const GUARDED: [(&str, &str); 8] = [
    ("GET", STATS),
    ("GET", "/api/admin/memory-stats/stream"),
    ("GET", "/api/admin/overview"),
    ("GET", "/api/admin/charts/memory"),
    ("GET", "/metrics"),
    ("POST", "/api/admin/cache/clear"),
    ("POST", "/api/admin/cache/invalidate"),
    ("POST", "/api/admin/heap-profile"),
];

fn is_problem(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{}", answer.text);
    assert_eq!(answer.kind, "application/problem+json");
    assert_eq!(answer.json()["status"], status);
    assert!(!answer.text.contains(TOKEN));
}

#[test]
fn requests_without_a_valid_token_are_refused() {
    let endpoint = Endpoint::start(builder(Guide).build());
    for (method, path) in GUARDED {
        for headers in [
            &[][..],
            &[("authorization", "Bearer wrong-token-of-some-length")],
            &[("authorization", TOKEN)],
            &[("authorization", "Basic YTpi")],
            &[("authorization", "Bearer ")],
            &[("authorization", &format!("Bearer {TOKEN}x"))],
            &[("authorization", &format!("Bearer {}", &TOKEN[1..]))],
            &[("authorization", &format!("Bearer {TOKEN}{TOKEN}"))],
        ] {
            let answer = endpoint.send(method, path, headers, "");
            is_problem(&answer, 401);
            let challenge = answer.headers["www-authenticate"].to_str().unwrap();
            let wrong = headers
                .iter()
                .any(|(_, value)| value.starts_with("Bearer ") && value.len() > 7);
            let expected = if wrong {
                ", error=\"invalid_token\""
            } else {
                ""
            };
            assert_eq!(challenge, format!("Bearer realm=\"tagcache\"{expected}"));
        }
    }
}

#[test]
fn reader_token_can_read_but_not_write() {
    let endpoint = Endpoint::start(builder(Guide).build());
    assert_eq!(endpoint.get_as(READER, STATS).status, 200);
    assert_eq!(endpoint.get_as(READER, "/metrics").status, 200);
    let authorization = format!("Bearer {READER}");
    for (method, path) in GUARDED.iter().filter(|(method, _)| *method == "POST") {
        let answer = endpoint.send(method, path, &[("authorization", &authorization)], "");
        is_problem(&answer, 403);
    }
}

#[test]
fn posts_from_other_origins_are_refused() {
    let endpoint = Endpoint::start(builder(Guide).build());
    let authorization = format!("Bearer {TOKEN}");
    let post = |site: &str| {
        let headers = [
            ("authorization", authorization.as_str()),
            ("sec-fetch-site", site),
        ];
        endpoint.send("POST", "/api/admin/cache/clear", &headers, "")
    };
    is_problem(&post("cross-site"), 403);
    is_problem(&post("something-new"), 403);
    is_problem(&post("same-site"), 403);
    assert_eq!(post("same-origin").status, 200);
}

#[test]
fn ambient_credentials_require_the_same_origin() {
    // As with a session's cookie: every request that the browser sends is authenticated as this user.
    let auth = Auth::predicate(|_| {
        Ok(Caller {
            name: "ada".into(),
            access: Access::Admin,
        })
    });
    for auth in [auth, Auth::insecure_on_loopback()] {
        let endpoint = Endpoint::start(Admin::builder(monitor(Guide), auth).build());
        let post = |origin: &str| {
            let headers = [("host", "localhost:3000"), ("origin", origin)];
            endpoint.send("POST", "/api/admin/cache/clear", &headers, "")
        };
        for foreign in [
            "http://elsewhere.example",
            "http://localhost:4000",
            "http://localhost",
            "null",
            "",
        ] {
            is_problem(&post(foreign), 403);
        }
        assert_eq!(post("http://localhost:3000").status, 200);
    }
}

#[test]
fn client_address_is_taken_from_the_application() {
    let admin = builder(Guide)
        .requests_per_minute(NonZeroU32::MIN)
        .client_address(|request| {
            request
                .headers
                .get("x-real-ip")?
                .to_str()
                .ok()?
                .parse()
                .ok()
        })
        .build();
    let endpoint = Endpoint::start(admin);
    let guess = |from: &str| {
        let headers = [
            ("authorization", "Bearer a-guess-of-some-length"),
            ("x-real-ip", from),
            ("x-forwarded-for", "192.0.2.99"),
        ];
        endpoint.send("GET", STATS, &headers, "").status
    };
    let statuses: Vec<u16> = (0..20).map(|_| guess("192.0.2.1")).collect();
    assert!(
        statuses.starts_with(&[401]) && statuses.ends_with(&[429]),
        "{statuses:?}"
    );
    assert_eq!(guess("192.0.2.2"), 401);
    // Callers that share a token have separate limits.
    let look = |from: &str| {
        let authorization = format!("Bearer {TOKEN}");
        let headers = [
            ("authorization", authorization.as_str()),
            ("x-real-ip", from),
        ];
        endpoint.send("GET", STATS, &headers, "").status
    };
    assert_eq!(look("192.0.2.3"), 200);
    assert_eq!(look("192.0.2.3"), 429);
    assert_eq!(look("192.0.2.4"), 200);
}

#[test]
fn forwarding_headers_do_not_change_the_caller() {
    let admin = builder(Guide).requests_per_minute(NonZeroU32::MIN).build();
    let endpoint = Endpoint::start(admin);
    let statuses: Vec<u16> = (0..20)
        .map(|i| {
            let from = format!("192.0.2.{i}");
            let headers = [
                ("authorization", "Bearer a-guess-of-some-length"),
                ("x-forwarded-for", from.as_str()),
                ("forwarded", from.as_str()),
                ("x-real-ip", from.as_str()),
            ];
            endpoint.send("GET", STATS, &headers, "").status
        })
        .collect();
    assert!(statuses.ends_with(&[429]), "{statuses:?}");
}

#[test]
fn page_and_health_need_no_token() {
    let endpoint = Endpoint::start(builder(Guide).build());
    let get = |path: &str| endpoint.send("GET", path, &[], "");
    assert_eq!(get("/healthz").status, 200);
    let page = get("/");
    assert_eq!(page.status, 200);
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(
        policy.contains("default-src 'none'") && !policy.contains("unsafe"),
        "{policy}"
    );
    for path in ["/assets/dashboard.css", "/assets/dashboard.js"] {
        assert_eq!(get(path).status, 200);
        assert!(page.text.contains(&path[1..]), "{path}");
    }
    assert!(!page.text.contains("http://") && !page.text.contains("https://"));
    assert_eq!(get("/nothing").status, 404);
}

#[test]
fn rate_limited_caller_gets_a_retry_after_header() {
    let admin = builder(Guide)
        .requests_per_minute(NonZeroU32::new(3).unwrap())
        .build();
    let endpoint = Endpoint::start(admin);
    for _ in 0..3 {
        assert_eq!(endpoint.get(STATS).status, 200);
    }
    let answer = endpoint.get(STATS);
    is_problem(&answer, 429);
    let wait: u64 = answer.headers["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=20).contains(&wait), "{wait}");
    // Another caller is not limited, and guesses of tokens are limited by address.
    assert_eq!(endpoint.get_as(READER, STATS).status, 200);
    let statuses: Vec<u16> = (0..40)
        .map(|_| endpoint.get_as("a-guess-of-some-length", STATS).status)
        .collect();
    assert!(
        statuses.contains(&401) && statuses.ends_with(&[429]),
        "{statuses:?}"
    );
}

#[test]
fn authorisation_can_be_decided_by_the_application() {
    let auth = Auth::predicate(|request| {
        match request
            .headers
            .get("x-user")
            .map(ureq::http::HeaderValue::as_bytes)
        {
            None => Err(Denied::Unauthorized),
            Some(b"mallory") => Err(Denied::Forbidden),
            Some(b"root") => Ok(Caller {
                name: "root".into(),
                access: Access::Admin,
            }),
            Some(_) => Ok(Caller {
                name: "user".into(),
                access: Access::Read,
            }),
        }
    });
    let endpoint = Endpoint::start(Admin::builder(monitor(Guide), auth).build());
    is_problem(&endpoint.send("GET", STATS, &[], ""), 401);
    is_problem(
        &endpoint.send("GET", STATS, &[("x-user", "mallory")], ""),
        403,
    );
    assert_eq!(
        endpoint.send("GET", STATS, &[("x-user", "ada")], "").status,
        200
    );
    is_problem(
        &endpoint.send("POST", "/api/admin/cache/clear", &[("x-user", "ada")], ""),
        403,
    );
    assert_eq!(
        endpoint
            .send("POST", "/api/admin/cache/clear", &[("x-user", "root")], "")
            .status,
        200
    );
}

#[test]
fn without_authorisation_only_loopback_is_served() {
    let endpoint =
        Endpoint::start(Admin::builder(monitor(Guide), Auth::insecure_on_loopback()).build());
    assert_eq!(endpoint.send("GET", STATS, &[], "").status, 200);
    assert_eq!(
        endpoint
            .send("GET", STATS, &[("host", "localhost:3000")], "")
            .status,
        200
    );
    is_problem(
        &endpoint.send("GET", STATS, &[("host", "rebound.example")], ""),
        403,
    );

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let everywhere = TcpListener::bind(("0.0.0.0", 0)).await.unwrap();
        let insecure = Admin::builder(monitor(Guide), Auth::insecure_on_loopback()).build();
        let refused = serve(everywhere, insecure, async {}).await;
        assert!(
            matches!(refused, Err(ServeError::Insecure(_))),
            "{refused:?}"
        );
        let everywhere = TcpListener::bind(("0.0.0.0", 0)).await.unwrap();
        let secure = Admin::builder(monitor(Guide), tokens()).build();
        serve(everywhere, secure, async {}).await.unwrap();
    });
}

#[test]
fn without_authorisation_remote_requests_are_refused() {
    // An application may mount the router on any address, and a caller may send any `Host`.
    let builder = || Admin::builder(monitor(Guide), Auth::insecure_on_loopback());
    let status = |router: axum::Router, headers: &[(&str, &str)]| {
        let endpoint = Endpoint::serve(router);
        let headers = [&[("host", "localhost:3000")], headers].concat();
        let clear = endpoint.send("POST", "/api/admin/cache/clear", &headers, "");
        let look = endpoint.send("GET", STATS, &headers, "");
        assert_eq!(clear.status, look.status);
        if clear.status != 200 {
            is_problem(&clear, 403);
        }
        clear.status
    };
    let from = |peer: &str| {
        let peer: SocketAddr = peer.parse().unwrap();
        builder()
            .build()
            .router()
            .layer(Extension(ConnectInfo(peer)))
    };
    for here in [
        "127.0.0.1:9",
        "127.8.9.10:9",
        "[::1]:9",
        "[::ffff:127.0.0.1]:9",
    ] {
        assert_eq!(status(from(here), &[]), 200, "{here}");
    }
    for elsewhere in ["192.0.2.1:9", "[2001:db8::1]:9", "[::ffff:192.0.2.1]:9"] {
        assert_eq!(status(from(elsewhere), &[]), 403, "{elsewhere}");
    }
    let unknown = builder().build().router();
    assert_eq!(status(unknown, &[]), 403, "served without connection info");
    // A header with a loopback address does not grant access.
    let by_header = builder().client_address(|_| "127.0.0.1".parse().ok());
    let elsewhere: SocketAddr = "192.0.2.1:9".parse().unwrap();
    let by_header = by_header
        .build()
        .router()
        .layer(Extension(ConnectInfo(elsewhere)));
    assert_eq!(status(by_header, &[]), 403);
    // A header of a proxy takes access away: a proxy on this machine forwards requests of other machines.
    for name in ["forwarded", "x-forwarded-for", "x-real-ip", "via"] {
        assert_eq!(
            status(from("127.0.0.1:9"), &[(name, "127.0.0.1")]),
            403,
            "{name}"
        );
    }
}

#[test]
fn weak_or_unsendable_token_is_refused() {
    assert!(
        Auth::bearer("short")
            .unwrap_err()
            .to_string()
            .contains("5 characters")
    );
    assert!(tokens().or_reader("").is_err());
    for unsendable in ["a-tøken-of-some-length", "a-token-of\nsome-length"] {
        let refused = Auth::bearer(unsendable).unwrap_err().to_string();
        assert!(refused.contains("ASCII"), "{refused}");
    }
    assert!(!format!("{:?}", tokens()).contains(TOKEN));
}
