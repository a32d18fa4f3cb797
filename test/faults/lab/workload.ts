/**
 * Runs of mixed blueprints, started over HTTP as clients start them: with an idempotency key, and again until accepted.
 * The ledger holds what was accepted; nothing in it may ever be lost.
 */
import { randomUUID } from 'node:crypto'
import { byId, type LabBlueprint, mixed } from './blueprints.js'
import type { Lab } from './lab.js'
import { createRandom, type Random } from './random.js'
import type { Order } from './workflows.js'
import { waitFor } from '../../support/wait-for.js'

export interface AcceptedRun {
	readonly runId: string
	readonly kind: LabBlueprint
	readonly seed: string
}

export interface Workload {
	/** Every run that was accepted, in that order. */
	readonly ledger: readonly AcceptedRun[]
	/** Starts one run and returns it when it is accepted. */
	startOne(blueprint: string, order?: Omit<Order, 'seed'>): Promise<AcceptedRun>
	/** Starts so many runs of mixed blueprints, some at once, and resolves when all are accepted. */
	start(count: number, options?: StartRunsOptions): Promise<void>
	/** Resumes runs that wait, and resolves when all have ended and nothing is left to publish. */
	finish(options?: { readonly deadlineMs?: number }): Promise<void>
	/** Resumes what waits right now; `finish` does it again and again. For loads that go on. */
	resumeWaiting(): Promise<void>
}

export interface StartRunsOptions {
	/** Starts at once. Default 8. */
	readonly parallel?: number
	readonly order?: Omit<Order, 'seed'>
	/** Default: all but the blueprints made for one test. */
	readonly blueprints?: readonly string[]
}

const FINISH_DEADLINE_MS = 120_000

export function createWorkload(lab: Lab, { seed }: { readonly seed: number }): Workload {
	const random: Random = createRandom(seed)
	const ledger: AcceptedRun[] = []
	const resumed = new Set<string>()
	let orders = 0

	const startOne = async (blueprint: string, order: Omit<Order, 'seed'> = {}): Promise<AcceptedRun> => {
		const kind = byId.get(blueprint)
		if (kind === undefined) throw new Error(`There is no blueprint ${blueprint}`)
		const runSeed = `s${seed}-${(orders += 1)}`
		const response = await lab.request('/runs', {
			method: 'POST',
			headers: { 'Content-Type': 'application/json', 'Idempotency-Key': randomUUID() },
			body: JSON.stringify({ blueprint, input: { order: { seed: runSeed, ...order } } }),
		})
		const answer = (await response.json()) as { runId: string }
		if (response.status !== 202) throw new Error(`A start was refused: ${JSON.stringify(answer)}`)
		const accepted = { runId: answer.runId, kind, seed: runSeed }
		ledger.push(accepted)
		return accepted
	}

	async function resumeWaiting(): Promise<void> {
		const waiting = await lab.rows<{ run_id: string; node_id: string }>(
			`select n.run_id, n.node_id from flowcraft_nodes n join flowcraft_statuses s using (run_id)
			where n.state = 'waiting' and n.due_at is null and s.status = 'awaiting' limit 500`,
		)
		const mine = new Map(ledger.map((run) => [run.runId, run]))
		for (const { run_id: runId, node_id: nodeId } of waiting) {
			const run = mine.get(runId)
			if (run?.kind.resumes !== nodeId || resumed.has(runId)) continue
			// Again after a lost answer it is refused: the wait is over.
			const response = await lab.request(`/runs/${runId}/resume`, {
				method: 'POST',
				headers: { 'Content-Type': 'application/json' },
				body: JSON.stringify({ nodeId, output: `${run.seed}:${nodeId}` }),
			})
			if (response.ok || response.status === 409) resumed.add(runId)
		}
	}

	return {
		ledger,
		startOne,
		resumeWaiting,
		async start(count, { parallel = 8, order = {}, blueprints } = {}) {
			const kinds = blueprints ?? mixed.map(({ blueprint }) => blueprint.id)
			// Every kind in turn, in a random order: small loads are mixed too.
			let round: string[] = []
			const wanted = Array.from({ length: count }, () => {
				if (round.length === 0) round = random.shuffle(kinds)
				return round.pop() ?? ''
			})
			const client = async (): Promise<void> => {
				for (let next = wanted.pop(); next !== undefined; next = wanted.pop())
					await startOne(next, order)
			}
			await Promise.all(Array.from({ length: parallel }, client))
		},
		async finish({ deadlineMs = FINISH_DEADLINE_MS } = {}) {
			await waitFor(
				'every run to end and the outbox to be empty',
				async () => {
					await resumeWaiting()
					const [left] = await lab.rows<{ live: number; outbox: number; example: string | null }>(
						`select (select count(*)::int from flowcraft_statuses where finished_at is null) as live,
							(select count(*)::int from flowcraft_outbox where kind <> 'event') as outbox,
							(select string_agg(distinct n.state || ' ' || s.blueprint_id || '/' || n.node_id, ', ')
								from flowcraft_nodes n join flowcraft_statuses s using (run_id)
								where s.finished_at is null and n.state in ('ready', 'running', 'waiting', 'child')) as example`,
					)
					return left
				},
				{ until: (left) => left?.live === 0 && left.outbox === 0, deadlineMs, everyMs: 100 },
			)
		},
	}
}
