//! Settings that cannot be meant end the process with a sentence that names them, and no password.
use crate::service::{SECRET, Service};

/// Settings that are fine, and lead nowhere.
fn settings(otherwise: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
    let nowhere = "127.0.0.1:1";
    let database = "postgres://a:s3cret@127.0.0.1:1/a";
    let all = [
        ("JANGTEO_POSTGRES", database),
        ("JANGTEO_BANK_POSTGRES", database),
        ("JANGTEO_CARRIER_POSTGRES", database),
        ("JANGTEO_KAFKA", nowhere),
        ("JANGTEO_INVENTORY", nowhere),
        ("JANGTEO_PAYMENT", nowhere),
        ("JANGTEO_SHIPPING", nowhere),
        ("JANGTEO_ORDER", nowhere),
        ("JANGTEO_AUDITOR", nowhere),
    ];
    all.into_iter().chain(otherwise.iter().copied()).map(|(name, value)| (name, value.to_owned())).collect()
}

#[tokio::test]
async fn malformed_settings_are_named() {
    let malformed = "is not an address like postgres://USER:PASSWORD@HOST:PORT/DATABASE";
    let cases = [
        ("auditor", "JANGTEO_POSTGRES", "mysql://a:s3cret@h/a", 1, malformed),
        ("payment", "JANGTEO_BANK_POSTGRES", "postgres://a:s3cret@h:port/a", 1, malformed),
        ("shipping", "JANGTEO_CARRIER_POSTGRES", "postgres", 1, malformed),
        ("order", "JANGTEO_KAFKA", "kafka", 1, "brokers are named as host:port"),
        ("order", "JANGTEO_PREFIX", "a shop ", 1, "a prefix has at most"),
        ("order", "JANGTEO_ELASTICSEARCH", "elastic search", 1, "address"),
        ("order", "JANGTEO_INVENTORY", "inventory", 1, "is no host and port"),
        ("gateway", "JANGTEO_AUDITOR", "auditor:port", 1, "is no host and port"),
        ("payment", "JANGTEO_KAFKA_REPLICAS", "many", 2, "invalid value 'many'"),
        ("inventory", "JANGTEO_LISTEN", "everywhere", 2, "invalid value 'everywhere'"),
        ("gateway", "JANGTEO_LOG", "loud=x=y", 1, "the log filter"),
    ];
    for (service, name, value, code, sentence) in cases {
        let mut service = Service::start(service, &settings(&[(name, value)]));
        let (ended, log) = (service.ended().await, service.log());
        assert_eq!(ended, Some(code), "{name}={value} ended with: {log}");
        let said: Vec<_> = log.lines().filter(|line| line.starts_with("error: ")).collect();
        // The parser of arguments says how the flag is called.
        let flag = format!("--{}", name.trim_start_matches("JANGTEO_").to_lowercase().replace('_', "-"));
        let named = |line: &str| line.contains(name) || line.contains(&flag) || name == "JANGTEO_LOG";
        assert!(matches!(said[..], [line] if line.contains(sentence) && named(line)), "{name}={value}: {log}");
        assert!(!log.contains(SECRET), "{log}");
    }
}

#[tokio::test]
async fn what_must_be_told_is_asked_for() {
    let told: Vec<_> = settings(&[]).into_iter().filter(|(name, _)| *name != "JANGTEO_KAFKA").collect();
    let mut service = Service::start("order", &told);
    assert_eq!(service.ended().await, Some(2));
    assert!(service.log().contains("--kafka <HOSTS>"), "{}", service.log());
}
