/**
 * An order that waits for its payment: a webhook, waits with an end, a sleep, and a business row and an event in the
 * commit of a node.
 *
 *     price_order ─► payment_link ─► ask_for_payment ─► await_payment ─────────────► check_payment ─► grace ─► fulfil_order
 *                     (webhook)                           │ (timeout: remind_customer)    ▲   │       (sleep)
 *                                                         └─ unpaid ─► last_chance ───────┘   └─ short ─► cancel_order
 *                                                                        │ (timeout: escalate)              ▲
 *                                                                        └─ unpaid ─────────────────────────┘
 *
 * Both waits are for the one request to the payment link. A wait that reaches its end fails, and its fallback stands in
 * for it: with the action `unpaid`, which chooses among the edges of the wait.
 */
import type { NodeContext, NodeRegistry, WorkflowBlueprint } from 'flowcraft'
import { z } from 'zod'
import type { DurableDependencies } from '../../execution/durable-dependencies.js'
import { parseInput } from '../parse-input.js'
import { enter, type LedgerEntry } from './ledger.js'

/** How long everybody is waited for: ms, or text like `30s`. */
export interface OrderTimes {
	readonly payment: string | number
	readonly lastChance: string | number
	/** Between payment and delivery, while the run can still be cancelled. */
	readonly grace: string | number
}

/** Short, so that one can watch it. A shop would say `2d`, `1d` and `1h`. */
const TIMES: OrderTimes = { payment: '60s', lastChance: '30s', grace: '2s' }

const orderBlueprint = (times: OrderTimes): WorkflowBlueprint => ({
	id: 'order',
	metadata: {
		version: '1.0.0',
		description: 'Waits for the payment of an order, reminds, escalates, delivers or cancels.',
	},
	nodes: [
		{ id: 'price_order', uses: 'order.price', inputs: { orderId: 'orderId', items: 'items' } },
		{ id: 'payment_link', uses: 'webhook' },
		{
			id: 'ask_for_payment',
			uses: 'order.ask-for-payment',
			inputs: { order: 'price_order', paymentPage: 'payment_link' },
		},
		{
			id: 'await_payment',
			uses: 'wait',
			params: { webhookNodeId: 'payment_link', timeout: times.payment },
			config: { fallback: 'remind_customer' },
		},
		{ id: 'remind_customer', uses: 'order.remind', inputs: { request: 'ask_for_payment' } },
		{
			id: 'last_chance',
			uses: 'wait',
			params: { webhookNodeId: 'payment_link', timeout: times.lastChance },
			config: { fallback: 'escalate' },
		},
		{ id: 'escalate', uses: 'order.escalate', inputs: { order: 'price_order' } },
		{ id: 'check_payment', uses: 'order.check-payment', config: { joinStrategy: 'any' } },
		{ id: 'grace', uses: 'sleep', params: { duration: times.grace } },
		{
			id: 'fulfil_order',
			uses: 'order.end',
			inputs: { order: 'price_order' },
			params: { status: 'paid' },
			config: { maxRetries: 3, retryDelay: 200 },
		},
		{
			id: 'cancel_order',
			uses: 'order.end',
			inputs: { order: 'price_order' },
			params: { status: 'cancelled' },
			config: { joinStrategy: 'any', maxRetries: 3, retryDelay: 200 },
		},
	],
	edges: [
		{ source: 'price_order', target: 'payment_link' },
		{ source: 'payment_link', target: 'ask_for_payment' },
		{ source: 'ask_for_payment', target: 'await_payment' },
		{ source: 'await_payment', target: 'check_payment' },
		{ source: 'await_payment', target: 'last_chance', action: 'unpaid' },
		{ source: 'last_chance', target: 'check_payment' },
		{ source: 'last_chance', target: 'cancel_order', action: 'unpaid' },
		{ source: 'check_payment', target: 'grace', action: 'paid' },
		{ source: 'check_payment', target: 'cancel_order', action: 'short' },
		{ source: 'grace', target: 'fulfil_order' },
	],
})

const itemSchema = z.object({
	sku: z.string().min(1),
	quantity: z.int().min(1).max(1_000),
	priceCents: z.int().min(0).max(1_000_000),
})
const orderSchema = z.object({ orderId: z.string().min(1), totalCents: z.number() })
const requestSchema = z.object({ payUrl: z.string(), dueCents: z.number() })
/** What a webhook's request comes as. */
const paymentSchema = z.object({ json: z.object({ paidCents: z.number() }) })

/** @param eventsExchange where `order.paid` and `order.cancelled` are published; nowhere if it is not given */
const orderNodes = (eventsExchange: string | undefined): NodeRegistry => ({
	'order.price': async ({ input }) => {
		const schema = z.object({ orderId: z.string().min(1), items: z.array(itemSchema).min(1) })
		const { orderId, items } = parseInput('input', schema, input)
		const totalCents = items.reduce((sum, { quantity, priceCents }) => sum + quantity * priceCents, 0)
		return { output: { orderId, totalCents } }
	},

	/** Records the mail that it would send, and emits the link to those who watch the run. */
	'order.ask-for-payment': async ({ input, dependencies }) => {
		const schema = z.object({ order: orderSchema, paymentPage: z.object({ url: z.string() }) })
		const { order, paymentPage } = parseInput('payment', schema, input)
		const request = { payUrl: paymentPage.url, dueCents: order.totalCents }
		const { emit } = dependencies as DurableDependencies & NodeContext['dependencies']
		await emit(request)
		return { output: request }
	},

	'order.remind': async ({ input }) => {
		const { request } = parseInput('reminder', z.object({ request: requestSchema }), input)
		return { output: { reminded: true, ...request }, action: 'unpaid' }
	},

	/** Records whom it would tell. */
	'order.escalate': async ({ input }) => {
		const { order } = parseInput('escalation', z.object({ order: orderSchema }), input)
		return {
			output: { told: 'support', because: `Order ${order.orderId} was not paid in time.` },
			action: 'unpaid',
		}
	},

	'order.check-payment': async ({ context, input }) => {
		const { paidCents } = parseInput('payment', paymentSchema, input).json
		const { totalCents } = parseInput('order', orderSchema, await context.get('price_order'))
		return {
			output: { paidCents, missingCents: Math.max(totalCents - paidCents, 0) },
			action: paidCents >= totalCents ? 'paid' : 'short',
		}
	},

	/** The end of an order: in the shop's table, and for whoever listens, in the commit of the node's result. */
	'order.end': async ({ input, params, dependencies }) => {
		const { order } = parseInput('end', z.object({ order: orderSchema }), input)
		const { onCommit, publish, runtime } = dependencies as DurableDependencies &
			NodeContext['dependencies']
		const entry: LedgerEntry = {
			...order,
			runId: String(runtime.executionId),
			status: params['status'] === 'paid' ? 'paid' : 'cancelled',
		}
		onCommit((tx) => enter(tx, entry))
		if (eventsExchange !== undefined) publish(eventsExchange, `order.${entry.status}`, entry)
		return { output: { orderId: entry.orderId, status: entry.status } }
	},
})

type OrderEnvironment = Readonly<Partial<Record<'ORDER_EVENTS_EXCHANGE', string>>>

export function createOrder(env: OrderEnvironment, times: OrderTimes = TIMES) {
	const blueprint = orderBlueprint(times)
	return {
		blueprints: { [blueprint.id]: blueprint },
		registry: orderNodes(env.ORDER_EVENTS_EXCHANGE?.trim() || undefined),
	}
}
