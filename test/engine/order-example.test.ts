/** The order example: paid in time, late, too little or not at all. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { OutboundMessage } from '../../src/ports/broker.js'
import { readRun } from '../../src/run/read.js'
import { receiveWebhook } from '../../src/run/webhooks.js'
import { createInProcessBroker } from '../../worker/broker/in-process.js'
import { createOrder } from '../../worker/workflows/order/order.js'
import { type EndedRun, startEngine, type TestEngine } from '../support/engine.js'
import { waitFor } from '../support/wait-for.js'

const PATIENT = { payment: '1h', lastChance: '1h', grace: 10 }
const IMPATIENT = { payment: 50, lastChance: 50, grace: 10 }
/** The reminder is sent, and then there is time. */
const LATE = { payment: 50, lastChance: '1h', grace: 10 }

const ITEMS = [
	{ sku: 'mug', quantity: 2, priceCents: 900 },
	{ sku: 'tea', quantity: 1, priceCents: 450 },
]
const TOTAL = 2_250

let engine: TestEngine
const events: OutboundMessage[] = []
beforeAll(async () => {
	const variants = Object.entries({ PATIENT, IMPATIENT, LATE }).map(([name, times]) => {
		const { blueprints, registry } = createOrder({ ORDER_EVENTS_EXCHANGE: 'shop' }, times)
		return { blueprint: { ...blueprints['order'], id: name } as (typeof blueprints)[string], registry }
	})
	engine = await startEngine({
		broker: createInProcessBroker({
			queues: ['flowcraft-jobs'],
			onEvent: (event) => void events.push(event),
		}),
		workflows: {
			blueprints: Object.fromEntries(variants.map(({ blueprint }) => [blueprint.id, blueprint])),
			registry: variants[0]?.registry ?? {},
		},
	})
})
afterAll(() => engine.stop())

const order = (blueprint: string, orderId: string): Promise<string> =>
	engine.start({ blueprint, input: { orderId, items: ITEMS } })

/** Sends the request that a payment provider would send, as soon as somebody waits for it at this node. */
async function pay(runId: string, paidCents: number, whileAt = 'await_payment'): Promise<void> {
	const { sql } = engine.database
	await waitFor(`the run to wait at ${whileAt}`, async () =>
		((await readRun(sql, runId))?.awaiting ?? []).some(({ nodeId }) => nodeId === whileAt),
	)
	const [row] = await engine.rows<{ output: string }>(
		`select output from flowcraft_nodes where run_id = $1 and node_id = 'payment_link'`,
		runId,
	)
	const { url } = JSON.parse(row?.output ?? '{}') as { url: string }
	await receiveWebhook(sql, url.slice(url.lastIndexOf('/') + 1), {
		text: '',
		json: { paidCents },
		headers: {},
	})
}

const eventOf = (orderId: string) =>
	waitFor(`the event of ${orderId}`, async () =>
		events.find(({ body }) => body.toString().includes(`"${orderId}"`)),
	)

async function expectEnd(run: EndedRun, status: 'paid' | 'cancelled', orderId: string): Promise<void> {
	expect(run.status).toBe('completed')
	const end = status === 'paid' ? 'fulfil_order' : 'cancel_order'
	expect(run.context[end]).toEqual({ orderId, status })
	expect(run.context).not.toHaveProperty([status === 'paid' ? 'cancel_order' : 'fulfil_order'])
	// The shop's own row came with the node's result.
	const rows = await engine.rows(
		'select run_id, status, total_cents from example_orders where order_id = $1',
		orderId,
	)
	expect(rows).toEqual([{ run_id: run.runId, status, total_cents: TOTAL }])
}

test('an order that is paid in time is delivered after its grace, and nobody is reminded', async () => {
	const runId = await order('PATIENT', 'in-time')
	await pay(runId, TOTAL)
	const run = await engine.end(runId)
	await expectEnd(run, 'paid', 'in-time')
	expect(run.context['check_payment']).toEqual({ paidCents: TOTAL, missingCents: 0 })
	expect(run.context).not.toHaveProperty('remind_customer')
	expect(await eventOf('in-time')).toMatchObject({ exchange: 'shop', routingKey: 'order.paid' })
})

test('one that is paid after a reminder is delivered too', async () => {
	const runId = await order('LATE', 'late')
	await pay(runId, TOTAL + 1, 'last_chance')
	const run = await engine.end(runId)
	await expectEnd(run, 'paid', 'late')
	expect(run.context['remind_customer']).toMatchObject({ reminded: true, dueCents: TOTAL })
})

test('one of which too little is paid is cancelled', async () => {
	const runId = await order('PATIENT', 'short')
	await pay(runId, TOTAL - 1)
	const run = await engine.end(runId)
	await expectEnd(run, 'cancelled', 'short')
	expect(run.context['check_payment']).toEqual({ paidCents: TOTAL - 1, missingCents: 1 })
	expect(await eventOf('short')).toMatchObject({ exchange: 'shop', routingKey: 'order.cancelled' })
})

test('one that nobody pays is reminded of, escalated and cancelled; the run has completed all the same', async () => {
	const run = await engine.end(await order('IMPATIENT', 'never'))
	await expectEnd(run, 'cancelled', 'never')
	expect(run.context['escalate']).toEqual({
		told: 'support',
		because: 'Order never was not paid in time.',
	})
	expect(run.errors ?? []).toEqual([])
})

test('orders that end at once, while there is no table yet, each have their row', async () => {
	await engine.rows('drop table if exists example_orders')
	const ids = Array.from({ length: 8 }, (_, position) => `at-once-${position}`)
	const runs = await Promise.all(ids.map(async (id) => engine.end(await order('IMPATIENT', id))))
	for (const [position, run] of runs.entries()) await expectEnd(run, 'cancelled', ids[position] as string)
})

test('an order id that is used again fails its run, and changes nothing', async () => {
	await engine.end(await order('IMPATIENT', 'twice'))
	const before = await engine.rows(`select * from example_orders where order_id = 'twice'`)
	const again = await engine.end(await order('IMPATIENT', 'twice'))
	expect(again.status).toBe('failed')
	expect(again.errors).toMatchObject([
		{ nodeId: 'cancel_order', message: expect.stringMatching(/duplicate key/) },
	])
	expect(again.context).not.toHaveProperty('cancel_order')
	expect(await engine.rows(`select * from example_orders where order_id = 'twice'`)).toEqual(before)
})
