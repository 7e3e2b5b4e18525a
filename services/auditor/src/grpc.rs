//! The driving adapter: gRPC in, use cases out.
use host::call::answer;
use proto::auditor::book_service_server::BookService;
use proto::auditor::{GetBooksRequest, GetBooksResponse};
use tonic::{Request, Response, Status, async_trait};

use crate::service::Auditor;

/// The service as its callers see it.
pub(crate) struct Grpc(pub(crate) Auditor);

#[async_trait]
impl BookService for Grpc {
    async fn get_books(&self, _: Request<GetBooksRequest>) -> Result<Response<GetBooksResponse>, Status> {
        answer(self.0.books().await.map(|books| GetBooksResponse { books: Some(books) }))
    }
}
