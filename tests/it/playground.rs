//! The web page at `/`: complete, locked down, and absent if disabled.

use prompt_r1::playground::{FILES, RUNS, STYLE_LINK};

use crate::loopback::Loopback;
use crate::server::Setup;

#[tokio::test]
async fn the_page_is_served_with_its_files_and_nothing_loose() {
    let upstream = Loopback::start().await;
    let server = Setup::relay().start(&upstream).await;
    for file in FILES {
        let response = server.get(file.path).await;
        assert_eq!(response.status(), 200, "{}", file.path);
        let headers = response.headers().clone();
        let header = |name: &str| headers[name].to_str().unwrap();
        assert_eq!(header("content-type"), file.content_type);
        assert_eq!(header("x-content-type-options"), "nosniff");
        let policy = header("content-security-policy");
        assert!(!policy.contains("unsafe"), "{policy}");
        for rule in ["default-src 'none'", "frame-ancestors 'none'", "script-src 'self'"] {
            assert!(policy.contains(rule), "{policy}");
        }
        let is_known = policy.contains("style-src 'self' 'sha256-");
        assert_eq!(is_known, file.path == "/", "{policy}");
        let content = response.text().await.unwrap();
        match file.content.split_once(STYLE_LINK) {
            // The style sheet stands in the page.
            Some((before, after)) => {
                assert!(content.starts_with(&format!("{before}<style>:root")), "{content}");
                assert!(content.ends_with(&format!("</style>{after}")), "{content}");
            }
            None => assert_eq!(content, file.content),
        }
    }
}

#[tokio::test]
async fn all_that_the_page_names_is_there() {
    let names = |text: &str, before: &str| -> Vec<String> {
        let found = text.split(before).skip(1);
        found.map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
    };
    for (page, file) in
        [FILES, RUNS].iter().flat_map(|page| page.iter().map(move |file| (page, file)))
    {
        for before in ["from \"./", "\"playground/"] {
            for name in names(file.content, before) {
                let path = format!("/playground/{name}");
                let is_there = page.iter().any(|file| file.path == path);
                assert!(is_there, "`{path}`, which {} names, is not served", file.path);
            }
        }
        for forbidden in ["innerHTML", "eval(", "localStorage", "sessionStorage", "document.cookie"]
        {
            assert!(!file.content.contains(forbidden), "{}: {forbidden}", file.path);
        }
    }
}

#[tokio::test]
async fn it_can_be_left_out() {
    let upstream = Loopback::start().await;
    let mut setup = Setup::relay();
    setup.server.ui = false;
    let server = setup.start(&upstream).await;
    for file in FILES {
        assert_eq!(server.get(file.path).await.status(), 404, "{}", file.path);
    }
    assert_eq!(server.get("/docs/").await.status(), 200);
}
