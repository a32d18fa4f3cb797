/**
 * What the laboratory's workers run (`WORKFLOWS`). Every execution of a `work` node is a row of `lab_executions`, written
 * on a connection of its own when it begins and completed when it ends, so that the checker can count what really ran:
 * a process that is killed leaves a row without an end. The row says under which claim this process has the node at that
 * moment. It is committed synchronously, behind the claim, so that no crash of Postgres loses the claim and keeps the row.
 *
 * A run's input is `{ order: { seed, hold?, ms? } }`. The output of node `x` is `<seed>:x`, which tells everywhere, also
 * in the bytes on a wire, whose it is. A node named in `hold` waits until its gate is opened (`openGate` in `lab.ts`).
 */
import { randomUUID } from 'node:crypto'
import { hostname } from 'node:os'
import { setTimeout as delay } from 'node:timers/promises'
import type { NodeContext, NodeFunction, WorkflowBlueprint } from 'flowcraft'
import { createDatabase } from '../../../src/db/client.js'
import { query, type Row } from '../../../src/db/query.js'
import { whileUnavailable } from '../../../src/db/retry.js'
import type { DurableDependencies } from '../../../worker/execution/durable-dependencies.js'
import { all } from './blueprints.js'

export interface Order {
	readonly seed: string
	/** The node that waits for its gate. */
	readonly hold?: string
	/** How long each node takes, in ms. Default 0. */
	readonly ms?: number
}

/** Where every node publishes an event, see `effects.ts`. */
const EXCHANGE = process.env['LAB_EXCHANGE']

/** The name of this process's workers in the registry. */
const REGISTERED_AS = `${hostname()}:${process.pid}`

const database = createDatabase(process.env['LAB_DATABASE_URL'] ?? '', {
	max: 3,
	applicationName: 'lab-executions',
})

/** Of the laboratory, not of the system: asks until it gets through, whatever Postgres suffers at the moment. */
const note = <T extends Row>(text: string, parameters: (string | number | null)[]): Promise<T[]> =>
	whileUnavailable('Noting an execution', () => query<T>(database.sql, text, parameters), {
		deadlineMs: 5_000,
		maxMs: 600_000,
	})

const work: NodeFunction = async ({ context, params, dependencies, signal }: NodeContext) => {
	const execution = randomUUID()
	const key = dependencies['idempotencyKey'] as string
	const [runId, nodeId, generation, recovers] = JSON.parse(key) as string[]
	const attempt = dependencies['attempt'] as number
	await note(
		`insert into lab_executions (execution, run_id, node_id, generation, recovers, attempt, worker, pid, claim, worker_id, claimed_at)
		select $1::text::uuid, $2::text, $3::text, $4::text, $5::text, $6::int, $7::text, $8::int, n.claim_token, n.worker_id, n.claimed_at
		from (values (1)) as one left join (flowcraft_nodes n join flowcraft_workers w on w.worker_id = n.worker_id)
			on n.run_id = $2::text and n.node_id = $3::text and n.generation = $4::text and n.recovers = $5::text
				and n.state = 'running' and w.name = $9::text
		on conflict do nothing`,
		[
			execution,
			runId ?? '',
			nodeId ?? '',
			generation ?? '',
			recovers ?? '',
			attempt,
			process.env['LAB_NAME'] ?? '',
			process.pid,
			REGISTERED_AS,
		],
	)
	const end = (how: string): Promise<unknown> =>
		note(`update lab_executions set ended_at = clock_timestamp(), ended = $2 where execution = $1`, [
			execution,
			how,
		])
	try {
		const order = ((await context.get('order')) ?? { seed: 'none' }) as Order
		// Really: what a node does that runs into a defect of a native library, or out of memory.
		if (params['kills'] === true) process.kill(process.pid, 'SIGKILL')
		if (order.hold === nodeId) await gate(`${runId}/${nodeId}`)
		if (order.ms !== undefined) await delay(order.ms)
		if (typeof params['ms'] === 'number') await delay(params['ms'])
		// Before the failure, which must take it back.
		if (EXCHANGE !== undefined)
			(dependencies['publish'] as Publish)(EXCHANGE, 'finished', {
				key: [runId, nodeId, generation, recovers],
			})
		if (params['books'] === true)
			(dependencies['onCommit'] as OnCommit)(
				(tx) => tx`insert into lab_bookings (run_id, node_id, generation, recovers)
					values (${runId ?? ''}, ${nodeId ?? ''}, ${generation ?? ''}, ${recovers ?? ''})`,
			)
		if (attempt <= Number(params['failures'] ?? 0)) throw new Error(`attempt ${attempt} fails`)
		if (typeof params['turns'] === 'number') {
			const turn = Number((await context.get('turns')) ?? 0) + 1
			await context.set('turns', turn)
			await context.set('again', turn < params['turns'])
		}
		if (params['steps'] === true)
			for (const step of ['first', 'second'])
				await (dependencies['step'] as Step)(step, async () => `${order.seed}:${step}`)
		await end(signal?.aborted === true ? `aborted: ${nameOf(signal.reason)}` : 'returned')
		return { output: params['items'] ?? `${order.seed}:${nodeId}` }
	} catch (error) {
		await end(signal?.aborted === true ? `aborted: ${nameOf(signal.reason)}` : 'threw')
		throw error
	}
}

type Publish = DurableDependencies['publish']
type OnCommit = DurableDependencies['onCommit']
type Step = (key: string, run: () => Promise<unknown>) => Promise<unknown>

/** Deaf to its signal: a zombie that was stopped in here goes on where it stood. */
async function gate(name: string): Promise<void> {
	for (;;) {
		const open = await note(`select 1 from lab_gates where name = $1`, [name])
		if (open.length > 0) return
		await delay(20)
	}
}

const nameOf = (reason: unknown): string => (reason instanceof Error ? reason.name : String(reason))

export const registry: Record<string, NodeFunction> = { work }

export const blueprints: Record<string, WorkflowBlueprint> = Object.fromEntries(
	all.map(({ blueprint }) => [blueprint.id, blueprint]),
)
