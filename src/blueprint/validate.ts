/**
 * What a blueprint must be to be registered. Every fault is listed, none is guessed around.
 */
import type { NodeDefinition, WorkflowBlueprint } from 'flowcraft'
import { z } from 'zod'
import { InvalidInputError, type Fault } from '../errors.js'
import { WEBHOOK_EVENT_PREFIX } from '../run/webhooks.js'
import { createGraph } from './graph.js'

/** Postgres keeps these in text columns, and every log line and URL carries them. */
const identifier = z
	.string()
	.min(1, 'must not be empty')
	.max(256, 'must not be longer than 256 characters')
	.refine(
		(id) => !id.includes('\u0000') && id.isWellFormed(),
		'must not contain NUL or half of a surrogate pair',
	)

const duration = z.number().min(0, 'must not be negative')

const nodeSchema = z.object({
	id: identifier,
	uses: identifier,
	params: z.record(z.string(), z.unknown()).optional(),
	inputs: z.union([z.string(), z.record(z.string(), z.string())]).optional(),
	config: z
		.looseObject({
			maxRetries: z.number().int().min(0, 'must not be negative').optional(),
			retryDelay: duration.optional(),
			timeout: duration.optional(),
			fallback: identifier.optional(),
			joinStrategy: z.enum(['all', 'any']).optional(),
		})
		.optional(),
})

const edgeSchema = z.object({
	source: identifier,
	target: identifier,
	action: z.string().optional(),
	condition: z.string().optional(),
	transform: z.string().optional(),
})

/** The shape of a blueprint; properties that only editors use (positions, styles) are dropped. */
export const blueprintSchema = z.object({
	id: identifier,
	nodes: z.array(nodeSchema).min(1, 'must have at least one node').max(20_000),
	edges: z.array(edgeSchema).max(200_000).default([]),
	metadata: z
		.looseObject({
			version: z.string().min(1).max(256).optional(),
			cycleEntryPoints: z.array(z.string()).optional(),
		})
		.optional(),
})

/**
 * The blueprint with nothing in it but what Flowcraft defines.
 * @throws InvalidInputError with every fault of shape and structure
 */
export function validateBlueprint(input: unknown): WorkflowBlueprint {
	const parsed = blueprintSchema.safeParse(input)
	if (!parsed.success) {
		throw new InvalidInputError(
			'The blueprint is invalid',
			parsed.error.issues.map((issue) => ({
				path: issue.path.map((part) => `/${String(part)}`).join(''),
				message: issue.message,
			})),
		)
	}
	// Definitions travel as JSON: dropping `undefined` makes equal definitions equal.
	const blueprint = JSON.parse(JSON.stringify(parsed.data)) as WorkflowBlueprint
	const faults = structuralFaults(blueprint)
	if (faults.length > 0) throw new InvalidInputError('The blueprint is invalid', faults)
	return blueprint
}

function structuralFaults(blueprint: WorkflowBlueprint): Fault[] {
	const faults: Fault[] = []
	const places = new Map<string, number>()
	blueprint.nodes.forEach((node, position) => {
		const first = places.get(node.id)
		if (first !== undefined)
			faults.push({
				path: `/nodes/${position}/id`,
				message: `'${node.id}' is the id of node ${first} too`,
			})
		else places.set(node.id, position)
		faults.push(
			...constructFaults(blueprint, node).map(({ path, message }) => ({
				path: `/nodes/${position}${path}`,
				message,
			})),
		)
		if (node.uses === 'subflow' && typeof node.params?.['blueprintId'] !== 'string') {
			faults.push({
				path: `/nodes/${position}/params/blueprintId`,
				message: 'a subflow must name its blueprint',
			})
		}
	})
	blueprint.edges.forEach((edge, position) => {
		for (const end of ['source', 'target'] as const) {
			if (!places.has(edge[end]))
				faults.push({ path: `/edges/${position}/${end}`, message: `there is no node '${edge[end]}'` })
		}
	})
	faults.push(...fallbackFaults(blueprint, places))
	if (faults.length > 0) return faults

	if (createGraph(blueprint).startNodes.length === 0) {
		faults.push({
			path: '/nodes',
			message: 'no node can start: each has an incoming edge or is a fallback',
		})
	}
	return faults
}

/** What the engine's own nodes need to make sense. */
function constructFaults(blueprint: WorkflowBlueprint, node: NodeDefinition): Fault[] {
	const faults: Fault[] = []
	switch (node.uses) {
		case 'loop-controller':
			if (typeof node.params?.['condition'] !== 'string')
				faults.push({ path: '/params/condition', message: 'a loop must have a condition' })
			if (!blueprint.edges.some((edge) => edge.source === node.id && edge.action === 'continue')) {
				faults.push({
					path: '/id',
					message: `loop '${node.id}' has no edge with the action 'continue' to the start of its body`,
				})
			}
			break
		case 'batch-scatter': {
			if (typeof node.params?.['workerUsesKey'] !== 'string') {
				faults.push({
					path: '/params/workerUsesKey',
					message: 'a batch must name the implementation that its items run',
				})
			}
			const gatherId: unknown = node.params?.['gatherNodeId']
			if (!blueprint.nodes.some((other) => other.id === gatherId && other.uses === 'batch-gather')) {
				faults.push({
					path: '/params/gatherNodeId',
					message: `there is no batch-gather node '${String(gatherId)}'`,
				})
			}
			break
		}
		case 'wait': {
			const { webhookNodeId, eventName } = node.params ?? {}
			const isWebhook = (id: unknown): boolean =>
				blueprint.nodes.some((other) => other.id === id && other.uses === 'webhook')
			if (webhookNodeId !== undefined && !isWebhook(webhookNodeId)) {
				faults.push({
					path: '/params/webhookNodeId',
					message: `there is no webhook node '${String(webhookNodeId)}'`,
				})
			}
			if (typeof eventName === 'string' && eventName.startsWith(WEBHOOK_EVENT_PREFIX)) {
				const id = eventName.slice(WEBHOOK_EVENT_PREFIX.length)
				if (!isWebhook(id))
					faults.push({ path: '/params/eventName', message: `there is no webhook node '${id}'` })
			}
			break
		}
		case 'batch-gather':
			if (typeof node.params?.['outputKey'] !== 'string')
				faults.push({ path: '/params/outputKey', message: 'a batch must say where its results go' })
			break
	}
	return faults
}

function fallbackFaults(blueprint: WorkflowBlueprint, places: ReadonlyMap<string, number>): Fault[] {
	const faults: Fault[] = []
	const fallbackOf = new Map(blueprint.nodes.map((node) => [node.id, node.config?.fallback]))
	blueprint.nodes.forEach((node, position) => {
		const fallback = node.config?.fallback
		if (fallback === undefined) return
		const path = `/nodes/${position}/config/fallback`
		if (!places.has(fallback)) {
			faults.push({ path, message: `there is no node '${fallback}'` })
			return
		}
		const seen = new Set([node.id])
		for (let next: string | undefined = fallback; next !== undefined; next = fallbackOf.get(next)) {
			if (seen.has(next)) {
				faults.push({ path, message: `the fallbacks lead back to '${next}'` })
				return
			}
			seen.add(next)
		}
	})
	return faults
}
