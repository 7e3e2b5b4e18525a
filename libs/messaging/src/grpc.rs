//! The driving adapter for operators: gRPC in, dead letters out. The same for every service that listens.
use host::call::{Caller, answer};
use host::check;
use host::error::Refusal;
use host::transport::{Transport, in_process};
use proto::messaging::dead_letter_service_server::{DeadLetterService, DeadLetterServiceServer};
use proto::messaging::{
    DeadLetter as Message, GetDeadLetterRequest, GetDeadLetterResponse, LeftOut as LeftOutMessage,
    ListDeadLettersRequest, ListDeadLettersResponse, ParkedMessage, RedriveDeadLetterRequest,
    RedriveDeadLetterResponse, SkipDeadLetterRequest, SkipDeadLetterResponse,
};
use store::CommitId;
use telemetry::metrics::Red;
use tonic::{Request, Response, Status, async_trait};

use crate::consumer::Consumer;
use crate::dead_letters::{DeadLetter, Operator};
use crate::envelope::{Envelope, to_proto};
use crate::parked::{LeftOut, Waiting};

/// At most so many messages of a dead letter are shown.
const SHOWN: usize = 100;

struct Grpc(Consumer);

/// The dead letters of a consumer, as operators reach them.
#[must_use]
pub fn dead_letters(consumer: &Consumer, red: Red) -> Transport {
    in_process(DeadLetterServiceServer::new(Grpc(consumer.clone())), red)
}

#[async_trait]
impl DeadLetterService for Grpc {
    async fn list_dead_letters(
        &self,
        request: Request<ListDeadLettersRequest>,
    ) -> Result<Response<ListDeadLettersResponse>, Status> {
        let ListDeadLettersRequest { page_size, page_token } = request.into_inner();
        let page = async { self.0.dead_letters(&page_token, check::page_size(page_size)?).await };
        answer(page.await.map(|(letters, next_page_token)| {
            let dead_letters = letters.into_iter().map(|letter| message(Some(letter), 1)).collect();
            ListDeadLettersResponse { dead_letters, next_page_token }
        }))
    }

    async fn get_dead_letter(
        &self,
        request: Request<GetDeadLetterRequest>,
    ) -> Result<Response<GetDeadLetterResponse>, Status> {
        let letter = self.0.dead_letter(&request.into_inner().dead_letter_id).await;
        answer(letter.map(|letter| GetDeadLetterResponse { dead_letter: Some(message(Some(letter), SHOWN)) }))
    }

    async fn redrive_dead_letter(
        &self,
        request: Request<RedriveDeadLetterRequest>,
    ) -> Result<Response<RedriveDeadLetterResponse>, Status> {
        let caller = Caller::of(&request, &self.0.0.process.ids)?;
        let RedriveDeadLetterRequest { dead_letter_id, reason, over_gap } = request.into_inner();
        let (operator, consumer) = (operator(&caller, &reason)?, self.0.clone());
        let work = async move { consumer.redrive(&dead_letter_id, &operator, over_gap).await };
        let left = self.0.0.process.tasks.run(work).await;
        answer(left.map(|left| RedriveDeadLetterResponse { dead_letter: Some(message(left, SHOWN)) }))
    }

    async fn skip_dead_letter(
        &self,
        request: Request<SkipDeadLetterRequest>,
    ) -> Result<Response<SkipDeadLetterResponse>, Status> {
        let caller = Caller::of(&request, &self.0.0.process.ids)?;
        let SkipDeadLetterRequest { dead_letter_id, reason } = request.into_inner();
        let (operator, consumer) = (operator(&caller, &reason)?, self.0.clone());
        let left = self.0.0.process.tasks.run(async move { consumer.skip(&dead_letter_id, &operator).await }).await;
        answer(left.map(|left| SkipDeadLetterResponse { dead_letter: Some(message(left, SHOWN)) }))
    }
}

fn operator(caller: &Caller, reason: &str) -> Result<Operator, Refusal> {
    check::text("reason", reason, 1..=200)?;
    let id = CommitId(caller.command()?.clone());
    Ok(Operator { by: caller.actor.to_string(), reason: reason.to_owned(), id })
}

fn message(letter: Option<DeadLetter>, shown: usize) -> Message {
    let Some(DeadLetter { id, topic, stream, mark, waiting }) = letter else { return Message::default() };
    Message {
        dead_letter_id: id,
        topic,
        stream,
        in_effect: integer(mark),
        waiting: integer(waiting.len() as u64),
        messages: waiting.iter().take(shown).map(parked).collect(),
    }
}

fn parked(waiting: &Waiting) -> ParkedMessage {
    let Waiting { place, reason, message, at, left_out, .. } = waiting;
    let left_out = left_out.as_ref();
    ParkedMessage {
        version: integer(place.version.unwrap_or(0)),
        partition: i32::try_from(place.partition).unwrap_or(i32::MAX),
        offset: integer(place.offset),
        r#type: Envelope::decode(&waiting.original()).map(|fact| fact.kind).unwrap_or_default(),
        reason: reason.word().to_owned(),
        message: message.clone(),
        parked_at: Some(to_proto(*at)),
        left_out: left_out
            .map(|LeftOut { bytes, sha256 }| LeftOutMessage { bytes: integer(*bytes as u64), sha256: sha256.clone() }),
    }
}

fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use clock::Timestamp;

    use super::*;
    use crate::Delivered;
    use crate::parked::Reason;

    /// An operator finds a message that is in its topic only, and can tell that it is the one.
    #[test]
    fn what_is_left_out_is_shown() {
        let shown = |payload: Vec<u8>| {
            let message = crate::Message { key: "key".into(), headers: vec![("a".into(), "b".into())], payload };
            let delivered = Delivered { topic: "t".into(), partition: 2, offset: 7, message };
            let why = (Reason::Undecodable, "it is no envelope".to_owned());
            parked(&Waiting::new(&delivered, None, why, Timestamp(0)))
        };
        assert_eq!(shown(b"small".to_vec()).left_out, None);
        let large = shown(vec![0; 1 << 20]);
        assert_eq!((large.partition, large.offset), (2, 7));
        let sha256 = "30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58".to_owned();
        assert_eq!(large.left_out, Some(LeftOutMessage { bytes: (1 << 20) + 5, sha256 }));
    }
}
