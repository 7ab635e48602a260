//! What is written is read back, in every encoding; what cannot be read is refused without a panic.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use any::{entry, instant, job, response, source, status, usage_event};

use crate::event::LifecycleEvent;
use crate::job::Job;
use crate::record::{Answered, Dead, Entry, Source};
use crate::request::Endpoint;
use crate::response::Response;
use crate::usage::UsageEvent;
use crate::*;

mod any;
pub(crate) mod samples;
mod snapshots;

proptest! {
    #[test]
    fn responses_are_read_back(response in response()) {
        for encoding in [Encoding::Json, Encoding::Msgpack] {
            let bytes = encoding.encode(&response).unwrap();
            prop_assert_eq!(&encoding.decode::<Response>(&bytes).unwrap(), &response);
        }
    }

    #[test]
    fn usage_events_are_read_back(event in usage_event()) {
        for encoding in [Encoding::Json, Encoding::Msgpack] {
            let bytes = encoding.encode(&event).unwrap();
            prop_assert_eq!(&encoding.decode::<UsageEvent>(&bytes).unwrap(), &event);
        }
        let header = header::ascii_json(&event).unwrap();
        prop_assert!(header.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_control()), "{}", header);
        prop_assert_eq!(&serde_json::from_str::<UsageEvent>(&header).unwrap(), &event);
        let _ = (event.ce_id(), event.message_id());
    }

    #[test]
    fn jobs_are_read_back(job in job()) {
        let read = Job::decode(&job.encode().unwrap()).unwrap();
        prop_assert_eq!(read.body.is_empty(), job.body.is_empty() || job.body_ref.is_some());
        let body = if job.body_ref.is_some() { bytes::Bytes::new() } else { job.body.clone() };
        prop_assert_eq!(&read, &Job { body, ..job });
    }

    #[test]
    fn record_entries_are_read_back(entry in entry()) {
        let text = serde_json::to_vec(&entry).unwrap();
        prop_assert_eq!(&serde_json::from_slice::<Entry>(&text).unwrap(), &entry);
    }

    #[test]
    fn answered_is_read_back(
        status in status(), attempt: u32, from in source(), body: [u8; 4], dead in select(vec![None, Some(Dead::Poison), Some(Dead::Exhausted)]),
    ) {
        let answered = Answered { digest: Digest::of(&body), status, attempt, from, dead };
        let headers = answered.to_headers();
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        prop_assert_eq!(Answered::from_headers(&headers[..]), Some(answered));
    }

    #[test]
    fn what_others_wrote_is_refused(
        bytes in vec(proptest::prelude::any::<u8>(), 0..200),
        text in ".{0,60}",
        values in vec(".{0,70}", 4),
    ) {
        let _ = Job::decode(&bytes);
        for encoding in [Encoding::Json, Encoding::Msgpack] {
            let _ = encoding.decode::<Response>(&bytes);
            let _ = encoding.decode::<UsageEvent>(&bytes);
            let _ = encoding.decode::<Entry>(&bytes);
            let _ = encoding.decode::<LifecycleEvent>(text.as_bytes());
        }
        let _ = (Source::parse(&text), Digest::parse(&text), money::parse_usd(&text), text.parse::<Priority>());
        let _ = (Encoding::from_content_type(&text), Identity::from_tokens(&text), Endpoint::parse(&text));
        let names = [header::DIGEST, header::STATUS, header::ATTEMPT, header::FROM];
        let headers: Vec<_> = names.into_iter().zip(values.iter().map(String::as_str)).collect();
        prop_assert_eq!(Answered::from_headers(&headers[..]), None);
    }

    #[test]
    fn damaged_messages_are_refused_or_read(
        (response, job, entry) in (response(), job(), entry()), at: prop::sample::Index, bits: u8, cut: bool,
    ) {
        let damage = |mut bytes: Vec<u8>| {
            let at = at.index(bytes.len());
            if cut { bytes.truncate(at) } else { bytes[at] ^= bits }
            bytes
        };
        let _ = Job::decode(&damage(job.encode().unwrap().into()));
        let _ = Encoding::Msgpack.decode::<Response>(&damage(Encoding::Msgpack.encode(&response).unwrap()));
        let _ = Encoding::Json.decode::<Response>(&damage(Encoding::Json.encode(&response).unwrap()));
        let _ = Encoding::Json.decode::<Entry>(&damage(Encoding::Json.encode(&entry).unwrap()));
    }

    #[test]
    fn differences_of_instants_never_panic(start in instant(), end in instant()) {
        let forth = usage::millis_between(start, end);
        let back = usage::millis_between(end, start);
        prop_assert!(forth == 0 || back == 0);
        usage::millis_between(Timestamp::MIN_UTC, end);
        usage::millis_between(start, Timestamp::MAX_UTC);
    }
}
