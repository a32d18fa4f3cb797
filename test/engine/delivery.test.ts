/** What a worker does with a delivery: when it settles it, and how many it takes. */
import type { NodeFunction } from 'flowcraft'
import { afterEach, expect, test } from 'vitest'
import type { Broker, Delivery } from '../../src/ports/broker.js'
import { createInProcessBroker } from '../../worker/broker/in-process.js'
import { flow } from '../support/core.js'
import { startEngine, type TestEngine } from '../support/engine.js'
import { waitFor } from '../support/wait-for.js'

let engine: TestEngine
afterEach(() => engine.stop())

/** A real broker that writes down what becomes of its deliveries. */
function observed(seen: string[]): Broker {
	const broker = createInProcessBroker({ queues: ['flowcraft-jobs'] })
	const watch = (delivery: Delivery): Delivery => {
		const tell = (verb: 'ack' | 'requeue' | 'reject') => () => {
			seen.push(verb)
			delivery[verb]()
		}
		return { ...delivery, ack: tell('ack'), requeue: tell('requeue'), reject: tell('reject') }
	}
	return {
		...broker,
		consume: (options) =>
			broker.consume({ ...options, onDelivery: (delivery) => options.onDelivery(watch(delivery)) }),
	}
}

async function begin(work: NodeFunction, options: Parameters<typeof startEngine>[0] = {}): Promise<void> {
	engine = await startEngine({
		...options,
		workflows: { blueprints: { one: flow('one', [], { a: {} }) }, registry: { work } },
	})
}

/** Keeps nodes running until it is opened. */
function barrier(): {
	readonly work: NodeFunction
	open(): void
	readonly running: () => number
	readonly most: () => number
} {
	let open = (): void => {}
	const opened = new Promise<void>((resolve) => {
		open = resolve
	})
	let [running, most] = [0, 0]
	return {
		work: async () => {
			most = Math.max(most, ++running)
			await opened
			running -= 1
			return {}
		},
		open: () => open(),
		running: () => running,
		most: () => most,
	}
}

test('keeps its message until its node is claimed, and gives it back if it cannot be', async () => {
	const seen: string[] = []
	await begin(async () => ({}), { broker: observed(seen) })
	// A worker that counts as dead may claim nothing; its message must go to somebody else.
	await engine.rows("update flowcraft_workers set dead_at = now(), lease_until = '-infinity'")
	const runId = await engine.start({ blueprint: 'one' })
	await waitFor('the message to be given back', () => seen.length > 0)
	expect(seen[0]).toBe('requeue')
	await engine.rows(
		"update flowcraft_workers set dead_at = null, lease_until = now() + interval '1 minute'",
	)
	expect(await engine.end(runId)).toMatchObject({ status: 'completed' })
	expect(seen.at(-1)).toBe('ack')
})

test('acks its message as soon as the node is claimed, not when it has run', async () => {
	const [seen, { work, open, running }] = [[] as string[], barrier()]
	await begin(work, { broker: observed(seen) })
	const runId = await engine.start({ blueprint: 'one' })
	await waitFor('the node to run', () => running() === 1)
	expect(seen).toEqual(['ack'])
	open()
	await engine.end(runId)
})

test('never runs more nodes at once than it has slots, nor takes more deliveries', async () => {
	const { work, open, running, most } = barrier()
	await begin(work, { worker: { concurrency: 3 } })
	const runIds = await Promise.all(Array.from({ length: 9 }, () => engine.start({ blueprint: 'one' })))
	await waitFor('all slots to be taken', () => running() === 3)
	await waitFor(
		'the rest to wait in the broker',
		async () => (await engine.broker.depth('flowcraft-jobs')) === 6,
	)
	open()
	for (const runId of runIds) expect(await engine.end(runId)).toMatchObject({ status: 'completed' })
	expect(most()).toBe(3)
})

test('gives back what it has no slot for, and another worker runs it', async () => {
	const { work, open, running } = barrier()
	await begin(work, { worker: { concurrency: 1 } })
	const first = await engine.start({ blueprint: 'one' })
	await waitFor('the only slot to be taken', () => running() === 1)
	const second = await engine.start({ blueprint: 'one' })
	await waitFor(
		'the message to be with the worker',
		async () => (await engine.rows('select 1 from flowcraft_outbox')).length === 0,
	)
	await engine.addWorker({ registry: { work: async () => ({ output: 'by the other one' }) } })
	expect((await engine.end(second)).context['a']).toBe('by the other one')
	open()
	await engine.end(first)
})
