/**
 * The message of a job: pointers to a node, nothing else. Its form is a superset of Flowcraft's `JobPayload`, so what
 * the guide's clients send, `{ runId, blueprintId, nodeId }`, is one too.
 */
import { z } from 'zod'
import type { NodeKey } from '../plan/node-key.js'
import type { OutboxRow } from './outbox.js'

const jobSchema = z.object({
	runId: z.string().min(1).max(256),
	nodeId: z.string().min(1).max(256),
	blueprintId: z.string().optional(),
	generation: z.string().max(256).default(''),
	recovers: z
		.string()
		.default('')
		.refine((text) => text === '' || isTextArray(text), 'is no list of node ids'),
})

/** The body of a job's message. */
export function writeJob({ key, blueprintId }: Pick<OutboxRow, 'key' | 'blueprintId'>): string {
	return JSON.stringify({
		runId: key.runId,
		blueprintId,
		nodeId: key.nodeId,
		generation: key.generation === '' ? undefined : key.generation,
		recovers: key.recovers === '' ? undefined : key.recovers,
	})
}

/** The node that a message points to; undefined if it is no job's message, or can never be one. */
export function readJob(body: string): NodeKey | undefined {
	let parsed: unknown
	try {
		parsed = JSON.parse(body)
	} catch {
		return undefined
	}
	const job = jobSchema.safeParse(parsed)
	if (!job.success) return undefined
	const { runId, nodeId, generation, recovers } = job.data
	if ([runId, nodeId, generation, recovers].some((text) => text.includes('\u0000') || !text.isWellFormed()))
		return undefined
	return { runId, nodeId, generation, recovers }
}

function isTextArray(text: string): boolean {
	try {
		const parsed: unknown = JSON.parse(text)
		return Array.isArray(parsed) && parsed.every((item) => typeof item === 'string')
	} catch {
		return false
	}
}
