// Shops with the client that openapi-generator made from /openapi.json, and sees that its methods have names a person would
// give them.
//
// Usage: node client.js URL, compiled beside the generated package `jangteo`. What the generator calls otherwise than here does
// not compile.
import * as jangteo from './jangteo';

declare const process: { argv: string[] };

const settings = new jangteo.Configuration({ basePath: process.argv[2] });
const orders = new jangteo.OrderServiceApi(settings);
const products = new jangteo.InventoryServiceApi(settings);
const letters = new jangteo.DeadLetterServiceApi(settings);

const customer = { xCustomerId: 'typescript' };
const operator = { xOperator: 'lee' };

function same(found: unknown, expected: unknown): void {
  const [left, right] = [JSON.stringify(found), JSON.stringify(expected)];
  if (left !== right) throw new Error(`${left} is not ${right}`);
}

function methodsAreNamedByWords(): void {
  const apis = Object.entries(jangteo).filter(([name]) => name.endsWith('Api')).map(([, api]) => api as Function);
  const methods = apis.flatMap((api) => Object.getOwnPropertyNames(api.prototype)).filter((name) => name !== 'constructor');
  same(methods.filter((name) => !/^[a-z]+([A-Z][a-z]+)+$/.test(name)), []);
  const types = Object.keys(jangteo).filter((name) => /[0-9]|OneOf/.test(name));
  same(types, []);
  same([apis.length, methods.length > 50], [5, true]);
}

function order(quantity: number): jangteo.PlaceOrderOperationRequest {
  const placeOrderRequest = {
    lines: [{ sku: 'TEA-BOSEONG-100', quantity, unitPrice: 18_000 }],
    paymentMethod: 'pm_card_ok',
    shippingAddress: {
      recipient: 'Kim Jangteo', street: 'Sejong-daero 110', city: 'Seoul', postalCode: '04524', country: 'KR',
    },
  };
  return { ...customer, idempotencyKey: `typescript-${quantity}`, prefer: 'wait=10', placeOrderRequest };
}

async function shop(): Promise<void> {
  same((await products.getProduct({ sku: 'TEA-BOSEONG-100' })).unitPrice, 18_000);
  const placed = await orders.placeOrder(order(2));
  same([placed.status, placed.total], [jangteo.OrderStatus.OrderStatusConfirmed, 36_000]);
  const stream = await orders.watchOrder({ ...customer, orderId: placed.orderId });
  const names = [...(stream ?? '').matchAll(/^event: (.*)$/gm)].map((found) => found[1]);
  same(names, ['OrderPlaced', 'OrderConfirmed', 'OrderShipped', 'OrderDelivered']);
  const happened = await orders.listOrderEvents({ ...customer, orderId: placed.orderId });
  same(happened.events.map((event) => event.type), names);
  const refused = await orders.placeOrder(order(0)).catch((why) => why);
  same(refused instanceof jangteo.ResponseError && (await refused.response.json()).field, 'lines[0].quantity');
}

async function lookAtDeadLetters(): Promise<void> {
  const lists = [letters.listOrderDeadLetters(operator), letters.listInventoryDeadLetters(operator)];
  for (const list of await Promise.all([...lists, letters.listShippingDeadLetters(operator)])) same(list.deadLetters, []);
}

async function everything(): Promise<void> {
  methodsAreNamedByWords();
  await shop();
  await lookAtDeadLetters();
}

everything();
