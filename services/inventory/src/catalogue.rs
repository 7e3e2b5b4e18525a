//! What the shop sells when it opens, put on the shelves by ordinary commands.
use std::time::Duration;

use futures::future::try_join_all;
use host::Process;
use host::call::Caller;
use host::error::{Again, Refusal};
use host::remembered::REUSED;
use host::transport::Transport;
use proto::inventory::inventory_service_client::InventoryServiceClient;
use proto::inventory::{AddProductRequest, ReceiveStockRequest};
use telemetry::trouble::Trouble;
use tokio::time::sleep;
use tonic::{Code, Status};

/// How many of each product are in stock at first.
pub const PIECES: i64 = 500;
const PATIENCE: Duration = Duration::from_secs(30);
/// How long is waited after something was away.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// Under which name it is said that the shelves are not stocked.
const PART: &str = "inventory shelves";

/// Stocks the shelves as soon as that can be done, and says so in the process's health. What is away is waited for; a refusal
/// stays one however often it is asked, and a person has to hear of it.
pub fn stock_as_soon_as_possible(process: &Process, inventory: Transport, products: &'static [Product]) {
    process.health.missing(PART, "they are being stocked");
    let (tasks, process) = (process.tasks.clone(), process.clone());
    tasks.spawn_until_stop(async move {
        let mut trouble = Trouble::default();
        while let Err(status) = stock(&process, &inventory, products).await {
            let why = format!("the shelves cannot be stocked: {}", status.message());
            process.health.missing(PART, &why);
            if Refusal::of(&status).again() == Again::No {
                tracing::error!("{why}");
                return;
            }
            if trouble.is_news(&why) {
                tracing::warn!("{why}; it is tried again");
            }
            sleep(AFTER_FAILURE).await;
        }
        process.health.ready(PART);
        if trouble.is_over() {
            tracing::info!("the shelves are stocked");
        }
    });
}

/// Puts products on the shelves. The command ids are always the same, so that it happens once, however often the shop
/// is opened, and goes on where it was interrupted.
///
/// # Errors
/// The first refusal.
pub async fn stock(process: &Process, inventory: &Transport, products: &[Product]) -> Result<(), Status> {
    let caller = Caller::new("operator:opening", &process.ids, PATIENCE);
    try_join_all(products.iter().map(|product| put(&caller, inventory, product))).await.map(|_| ())
}

async fn put(
    caller: &Caller,
    inventory: &Transport,
    (sku, name_ko, name_en, category, unit_price): &Product,
) -> Result<(), Status> {
    let mut inventory = InventoryServiceClient::new(inventory.clone());
    let add = AddProductRequest {
        sku: (*sku).to_owned(),
        name_ko: (*name_ko).to_owned(),
        name_en: (*name_en).to_owned(),
        category: (*category).to_owned(),
        unit_price: *unit_price,
        currency: "KRW".to_owned(),
    };
    once(inventory.add_product(caller.under(format!("opening/{sku}/add")).request(add)).await)?;
    let receive = ReceiveStockRequest { sku: (*sku).to_owned(), quantity: PIECES };
    once(inventory.receive_stock(caller.under(format!("opening/{sku}/receive")).request(receive)).await)
}

/// A command that was carried out with other words, by an earlier version of the catalogue, was carried out; and a product that
/// somebody else has put there is there.
fn once<T>(answer: Result<T, Status>) -> Result<(), Status> {
    match answer {
        Err(status) if status.code() != Code::AlreadyExists && Refusal::of(&status).reason != REUSED => Err(status),
        _ => Ok(()),
    }
}

/// SKU, name in Korean, name in English, category, price in won.
pub type Product = (&'static str, &'static str, &'static str, &'static str, i64);

/// The catalogue.
#[rustfmt::skip]
pub const PRODUCTS: [Product; 64] = [
    ("TEA-BOSEONG-100", "보성 녹차 100g", "Boseong green tea 100 g", "tea", 18_000),
    ("TEA-JEJU-080", "제주 말차 80g", "Jeju matcha 80 g", "tea", 24_000),
    ("TEA-OMIJA-200", "오미자청 200ml", "Omija berry syrup 200 ml", "tea", 15_500),
    ("TEA-BARLEY-300", "볶은 보리차 300g", "Roasted barley tea 300 g", "tea", 6_900),
    ("TEA-YUJA-500", "고흥 유자차 500g", "Goheung yuja tea 500 g", "tea", 13_900),
    ("TEA-GINSENG-30", "홍삼차 30포", "Red ginseng tea, 30 sachets", "tea", 32_000),
    ("COFFEE-HOUSE-200", "하우스 블렌드 원두 200g", "House blend coffee beans 200 g", "coffee", 14_500),
    ("COFFEE-DECAF-200", "디카페인 원두 200g", "Decaf coffee beans 200 g", "coffee", 16_500),
    ("COFFEE-DRIP-10", "드립백 커피 10개입", "Drip bag coffee, 10 pieces", "coffee", 11_900),
    ("RICE-ICHEON-4KG", "이천 쌀 4kg", "Icheon rice 4 kg", "grain", 21_900),
    ("RICE-BLACK-1KG", "흑미 1kg", "Black rice 1 kg", "grain", 8_900),
    ("RICE-BROWN-2KG", "현미 2kg", "Brown rice 2 kg", "grain", 10_900),
    ("BEAN-SOY-1KG", "백태 콩 1kg", "Dried soybeans 1 kg", "grain", 9_500),
    ("NOODLE-SOBA-400", "메밀국수 400g", "Buckwheat noodles 400 g", "noodles", 5_900),
    ("NOODLE-GLASS-500", "당면 500g", "Sweet potato glass noodles 500 g", "noodles", 6_200),
    ("NOODLE-KAL-600", "칼국수면 600g", "Knife-cut noodles 600 g", "noodles", 4_800),
    ("KIMCHI-CABBAGE-2KG", "포기김치 2kg", "Whole cabbage kimchi 2 kg", "kimchi", 24_900),
    ("KIMCHI-RADISH-1KG", "깍두기 1kg", "Cubed radish kimchi 1 kg", "kimchi", 12_900),
    ("KIMCHI-PONY-1KG", "총각김치 1kg", "Ponytail radish kimchi 1 kg", "kimchi", 14_900),
    ("KIMCHI-WATER-1KG", "동치미 1kg", "Radish water kimchi 1 kg", "kimchi", 11_900),
    ("SAUCE-GOCHU-500", "순창 고추장 500g", "Sunchang chili paste 500 g", "sauce", 9_800),
    ("SAUCE-DOEN-500", "재래 된장 500g", "Traditional soybean paste 500 g", "sauce", 10_500),
    ("SAUCE-SOY-900", "양조간장 900ml", "Brewed soy sauce 900 ml", "sauce", 8_700),
    ("SAUCE-SSAM-450", "쌈장 450g", "Ssamjang dipping paste 450 g", "sauce", 5_400),
    ("OIL-SESAME-300", "저온압착 참기름 300ml", "Cold-pressed sesame oil 300 ml", "sauce", 19_800),
    ("OIL-PERILLA-300", "들기름 300ml", "Perilla oil 300 ml", "sauce", 17_800),
    ("SALT-BAMBOO-250", "죽염 250g", "Bamboo salt 250 g", "sauce", 13_500),
    ("SEAWEED-GIM-20", "재래김 20봉", "Roasted seaweed, 20 packs", "seafood", 15_900),
    ("SEAWEED-MIYEOK-100", "완도 미역 100g", "Wando sea mustard 100 g", "seafood", 7_900),
    ("FISH-ANCHOVY-500", "국물용 멸치 500g", "Dried anchovies for broth 500 g", "seafood", 16_900),
    ("FISH-MACKEREL-2", "간고등어 2손", "Salted mackerel, 2 pairs", "seafood", 18_900),
    ("SHRIMP-DRIED-200", "건새우 200g", "Dried shrimp 200 g", "seafood", 12_400),
    ("FRUIT-APPLE-3KG", "청송 사과 3kg", "Cheongsong apples 3 kg", "fruit", 27_900),
    ("FRUIT-PEAR-3KG", "나주 배 3kg", "Naju pears 3 kg", "fruit", 29_900),
    ("FRUIT-TANGER-5KG", "제주 감귤 5kg", "Jeju tangerines 5 kg", "fruit", 22_900),
    ("FRUIT-PERSIM-1KG", "상주 곶감 1kg", "Sangju dried persimmons 1 kg", "fruit", 34_900),
    ("FRUIT-JUJUBE-500", "경산 대추 500g", "Gyeongsan jujubes 500 g", "fruit", 14_900),
    ("NUT-CHESTNUT-1KG", "공주 밤 1kg", "Gongju chestnuts 1 kg", "fruit", 11_500),
    ("NUT-PINE-100", "가평 잣 100g", "Gapyeong pine nuts 100 g", "fruit", 16_900),
    ("SNACK-YAKGWA-12", "수제 약과 12개입", "Handmade honey cookies, 12 pieces", "snacks", 13_900),
    ("SNACK-GANGJEONG-300", "쌀강정 300g", "Puffed rice crunch 300 g", "snacks", 8_900),
    ("SNACK-RICE-CAKE-1KG", "가래떡 1kg", "Rice cake sticks 1 kg", "snacks", 9_900),
    ("SNACK-SWEET-POTATO", "고구마말랭이 300g", "Dried sweet potato 300 g", "snacks", 8_500),
    ("HONEY-ACACIA-500", "아카시아 꿀 500g", "Acacia honey 500 g", "snacks", 23_900),
    ("CERAMIC-BOWL-01", "백자 밥그릇", "White porcelain rice bowl", "kitchen", 28_000),
    ("CERAMIC-CUP-02", "청자 찻잔 2인", "Celadon tea cups, set of 2", "kitchen", 45_000),
    ("CERAMIC-POT-03", "옹기 항아리 3L", "Onggi earthenware jar 3 l", "kitchen", 52_000),
    ("BRASS-SPOON-01", "방짜유기 수저 세트", "Hand-forged brass spoon and chopsticks", "kitchen", 68_000),
    ("STONE-POT-20", "돌솥 20cm", "Stone pot 20 cm", "kitchen", 36_000),
    ("KNIFE-CHEF-21", "식도 21cm", "Kitchen knife 21 cm", "kitchen", 59_000),
    ("BOARD-GINKGO-40", "은행나무 도마 40cm", "Ginkgo wood cutting board 40 cm", "kitchen", 47_000),
    ("TRAY-LACQUER-30", "자개 옻칠 쟁반 30cm", "Lacquer tray with mother-of-pearl 30 cm", "kitchen", 89_000),
    ("HANJI-LAMP-01", "한지 조명", "Hanji paper lamp", "home", 74_000),
    ("HANJI-NOTE-05", "한지 노트 5권", "Hanji notebooks, set of 5", "stationery", 19_000),
    ("BRUSH-SET-03", "서예 붓 3종", "Calligraphy brushes, set of 3", "stationery", 26_000),
    ("INK-STICK-01", "송연먹", "Pine soot ink stick", "stationery", 17_500),
    ("FAN-FOLD-01", "합죽선 부채", "Folding bamboo fan", "home", 38_000),
    ("PILLOW-BUCKWHEAT", "메밀 베개", "Buckwheat hull pillow", "home", 29_900),
    ("BLANKET-NUBI-Q", "누비 이불 퀸", "Quilted nubi blanket, queen size", "home", 139_000),
    ("BOJAGI-SILK-60", "실크 보자기 60cm", "Silk wrapping cloth 60 cm", "home", 33_000),
    ("SOAP-MUGWORT-03", "쑥 비누 3개", "Mugwort soap, 3 bars", "care", 14_700),
    ("SHAMPOO-HERB-500", "한방 샴푸 500ml", "Herbal shampoo 500 ml", "care", 21_500),
    ("COTTON-TOWEL-05", "순면 수건 5장", "Cotton towels, set of 5", "care", 24_500),
    ("SOCKS-COTTON-10", "면 양말 10켤레", "Cotton socks, 10 pairs", "care", 15_900),
];

#[cfg(test)]
#[path = "catalogue_tests.rs"]
mod tests;
