//! The driving adapter: gRPC in, use cases out.
use host::Process;
use host::call::{Caller, answer};
use proto::inventory::inventory_service_server::InventoryService;
use proto::inventory::{
    AddProductRequest, AddProductResponse, ChangePriceRequest, ChangePriceResponse, CheckLinesRequest,
    CheckLinesResponse, GetProductRequest, GetProductResponse, ListProductsRequest, ListProductsResponse,
    ReceiveStockRequest, ReceiveStockResponse, ReleaseInventoryRequest, ReleaseInventoryResponse,
    ReserveInventoryRequest, ReserveInventoryResponse,
};
use tonic::{Request, Response, Status, async_trait};

use crate::service::Inventory;

/// The service as its callers see it.
pub(crate) struct Grpc {
    pub(crate) process: Process,
    pub(crate) inventory: Inventory,
}

#[async_trait]
impl InventoryService for Grpc {
    async fn list_products(
        &self,
        request: Request<ListProductsRequest>,
    ) -> Result<Response<ListProductsResponse>, Status> {
        answer(self.inventory.list(request.into_inner()).await)
    }

    async fn get_product(&self, request: Request<GetProductRequest>) -> Result<Response<GetProductResponse>, Status> {
        answer(
            self.inventory
                .get(&request.get_ref().sku)
                .await
                .map(|product| GetProductResponse { product: Some(product) }),
        )
    }

    async fn add_product(&self, request: Request<AddProductRequest>) -> Result<Response<AddProductResponse>, Status> {
        let (caller, inventory) = (Caller::of(&request, &self.process.ids)?, self.inventory.clone());
        answer(self.process.tasks.run(async move { inventory.add(&caller, request.get_ref()).await }).await)
    }

    async fn receive_stock(
        &self,
        request: Request<ReceiveStockRequest>,
    ) -> Result<Response<ReceiveStockResponse>, Status> {
        let (caller, inventory) = (Caller::of(&request, &self.process.ids)?, self.inventory.clone());
        answer(self.process.tasks.run(async move { inventory.receive(&caller, request.get_ref()).await }).await)
    }

    async fn change_price(
        &self,
        request: Request<ChangePriceRequest>,
    ) -> Result<Response<ChangePriceResponse>, Status> {
        let (caller, inventory) = (Caller::of(&request, &self.process.ids)?, self.inventory.clone());
        answer(self.process.tasks.run(async move { inventory.price(&caller, request.get_ref()).await }).await)
    }

    async fn check_lines(&self, request: Request<CheckLinesRequest>) -> Result<Response<CheckLinesResponse>, Status> {
        answer(self.inventory.check(request.get_ref()).await)
    }

    async fn reserve_inventory(
        &self,
        request: Request<ReserveInventoryRequest>,
    ) -> Result<Response<ReserveInventoryResponse>, Status> {
        let (caller, inventory) = (Caller::of(&request, &self.process.ids)?, self.inventory.clone());
        answer(self.process.tasks.run(async move { inventory.reserve(&caller, request.get_ref()).await }).await)
    }

    async fn release_inventory(
        &self,
        request: Request<ReleaseInventoryRequest>,
    ) -> Result<Response<ReleaseInventoryResponse>, Status> {
        let (caller, inventory) = (Caller::of(&request, &self.process.ids)?, self.inventory.clone());
        answer(self.process.tasks.run(async move { inventory.release(&caller, request.get_ref()).await }).await)
    }
}
