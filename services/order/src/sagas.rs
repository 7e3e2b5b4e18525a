//! What operators see of sagas, and do about them; with its driving adapter.
use decider::Decider;
use host::call::{Caller, answer};
use host::check;
use host::error::Refusal;
use host::use_case::{origin, unavailable};
use proto::order::saga_service_server::SagaService;
use proto::order::{
    ForceSagaRequest, ForceSagaResponse, GetSagaRequest, GetSagaResponse, ListSagasRequest, ListSagasResponse,
    RetrySagaRequest, RetrySagaResponse, Saga as Message, SagaEvent, SagaPhase, SkipSagaStepRequest,
    SkipSagaStepResponse,
};
use saga::react::Action;
use saga::{End, Input, Saga};
use store::StreamId;
use store::folded::{self, Folded};
use tonic::{Request, Response, Status, async_trait};

use crate::service::Orders;

/// What streams of sagas are named by, before the order's id.
const KINDS: [&str; 2] = ["cancellation-", "checkout-"];

impl Orders {
    /// A page of the sagas that have not ended. Each has a timer, whose key is its stream's name.
    async fn sagas(&self, request: ListSagasRequest) -> Result<ListSagasResponse, Refusal> {
        let size = check::page_size(request.page_size)?;
        let timers = self.ledger.store.timers(&request.page_token, size).await.map_err(unavailable)?;
        let mut page = ListSagasResponse::default();
        if timers.len() == size {
            page.next_page_token = timers.last().map(|(key, _)| key.clone()).unwrap_or_default();
        }
        for (key, _) in timers {
            let saga = self.runner.load(&key.as_str().into()).await.map_err(unavailable)?;
            page.sagas.push(message(&saga.state));
        }
        Ok(page)
    }

    async fn saga(&self, saga_id: &str) -> Result<Message, Refusal> {
        let stream = known(saga_id)?;
        let events = folded::history(self.ledger.store.as_ref(), &stream).await.map_err(unavailable)?;
        let mut saga = Folded::<Saga>::default();
        let mut shown = Vec::with_capacity(events.len());
        for recorded in &events {
            let event = folded::decode(recorded).map_err(unavailable)?;
            saga = Folded { state: saga.state.evolve(&event), version: recorded.version };
            let mut data: serde_json::Map<_, _> = serde_json::from_str(&recorded.event.data).unwrap_or_default();
            // Addresses and payment tokens are the order's to show, to whoever may see it.
            data.remove("data");
            shown.push(SagaEvent {
                version: i64::try_from(recorded.version).unwrap_or(i64::MAX),
                r#type: recorded.event.kind.clone(),
                recorded_at: Some(crate::grpc::time(recorded.timestamp)),
                actor: recorded.meta.actor.clone(),
                data: Some(crate::history::fields(data)),
            });
        }
        if saga.version == 0 {
            return Err(unknown(saga_id));
        }
        Ok(Message { events: shown, ..message(&saga.state) })
    }

    /// Acts on a saga, once per command id, and keeps who did it and why.
    async fn act(&self, caller: &Caller, saga_id: &str, reason: String, action: Action) -> Result<Message, Refusal> {
        check::text("reason", &reason, 1..=200)?;
        let stream = known(saga_id)?;
        let saga = self.runner.load(&stream).await.map_err(unavailable)?;
        if saga.version == 0 {
            return Err(unknown(saga_id));
        }
        let (id, meta) = origin(caller, saga.state.context().0)?;
        let input = Input::Operator { by: caller.actor.to_string(), reason, action };
        if self.runner.act(&stream, &input, id, meta).await.map_err(unavailable)? {
            tracing::warn!(saga = saga_id, by = %caller.actor, ?action, "an operator acted on a saga");
            return self.saga(saga_id).await;
        }
        let why = match saga.state.end() {
            Some(_) => "the saga has ended; nothing can be done to it any more",
            None => "the saga is past its pivot, or turns back already; it cannot be turned back now",
        };
        Err(Refusal::precondition("not_possible", why))
    }
}

fn known(saga_id: &str) -> Result<StreamId, Refusal> {
    let order_id = KINDS.iter().find_map(|kind| saga_id.strip_prefix(kind)).ok_or_else(|| unknown(saga_id))?;
    check::id("saga_id", order_id).map_err(|_| unknown(saga_id))?;
    Ok(StreamId::from(saga_id))
}

fn unknown(saga_id: &str) -> Refusal {
    let shown: String = saga_id.chars().take(60).collect();
    Refusal::not_found(format!("there is no saga {shown}; they are named checkout-ID and cancellation-ID"))
}

fn message(saga: &Saga) -> Message {
    let phase = match (saga.end(), saga.turned_back()) {
        (Some(End::Completed), _) => SagaPhase::Completed,
        (Some(End::Compensated), _) => SagaPhase::Compensated,
        (None, Some(_)) => SagaPhase::Compensating,
        (None, None) => SagaPhase::Forward,
    };
    let (awaiting, tries) = saga.awaiting().unwrap_or_default();
    Message {
        saga_id: saga.id().to_owned(),
        order_id: saga.context().0.to_owned(),
        name: saga.name().to_owned(),
        phase: phase.into(),
        awaiting: awaiting.to_owned(),
        tries: i32::try_from(tries).unwrap_or(i32::MAX),
        due_at: saga.due().map(crate::grpc::time),
        alarming: saga.alarming(),
        events: vec![],
    }
}

/// Sagas as operators reach them.
pub(crate) struct Grpc(pub(crate) Orders);

#[async_trait]
impl SagaService for Grpc {
    async fn list_sagas(&self, request: Request<ListSagasRequest>) -> Result<Response<ListSagasResponse>, Status> {
        answer(self.0.sagas(request.into_inner()).await)
    }

    async fn get_saga(&self, request: Request<GetSagaRequest>) -> Result<Response<GetSagaResponse>, Status> {
        let saga = self.0.saga(&request.into_inner().saga_id).await;
        answer(saga.map(|saga| GetSagaResponse { saga: Some(saga) }))
    }

    async fn retry_saga(&self, request: Request<RetrySagaRequest>) -> Result<Response<RetrySagaResponse>, Status> {
        let (caller, orders) = (Caller::of(&request, &self.0.process.ids)?, self.0.clone());
        let RetrySagaRequest { saga_id, reason } = request.into_inner();
        let work = async move { orders.act(&caller, &saga_id, reason, Action::Retry).await };
        let saga = self.0.process.tasks.run(work).await;
        answer(saga.map(|saga| RetrySagaResponse { saga: Some(saga) }))
    }

    async fn skip_saga_step(
        &self,
        request: Request<SkipSagaStepRequest>,
    ) -> Result<Response<SkipSagaStepResponse>, Status> {
        let (caller, orders) = (Caller::of(&request, &self.0.process.ids)?, self.0.clone());
        let SkipSagaStepRequest { saga_id, reason } = request.into_inner();
        let work = async move { orders.act(&caller, &saga_id, reason, Action::Skip).await };
        let saga = self.0.process.tasks.run(work).await;
        answer(saga.map(|saga| SkipSagaStepResponse { saga: Some(saga) }))
    }

    async fn force_saga(&self, request: Request<ForceSagaRequest>) -> Result<Response<ForceSagaResponse>, Status> {
        let (caller, orders) = (Caller::of(&request, &self.0.process.ids)?, self.0.clone());
        let ForceSagaRequest { saga_id, reason } = request.into_inner();
        let work = async move { orders.act(&caller, &saga_id, reason, Action::Force).await };
        let saga = self.0.process.tasks.run(work).await;
        answer(saga.map(|saga| ForceSagaResponse { saga: Some(saga) }))
    }
}
