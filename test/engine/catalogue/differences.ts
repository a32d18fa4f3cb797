/**
 * The settled differences from the in-process runtime, by their number in ARCHITECTURE.md: each a predicate that says
 * when it applies. What a case comes to then stands in the case, written by hand.
 */
import { isNodeClass, type WorkflowBlueprint } from 'flowcraft'
import { validateBlueprint } from '../../../src/blueprint/validate.js'
import type { Case } from './case.js'
import { registry } from './registry.js'
import { children } from './subflows.js'

/** What the in-process runtime made of a case. */
export interface Reference {
	readonly status: string
	readonly context: Readonly<Record<string, unknown>>
	readonly failed: readonly string[]
}

export interface Difference {
	/** In ARCHITECTURE.md. */
	readonly number: number
	readonly title: string
	applies(testCase: Case, reference: Reference | undefined): boolean
	/** Where it applies, only messages differ: everything else is compared all the same. */
	readonly messagesOnly?: true
	/** Where it applies, the in-process runtime does not come to an end. */
	readonly endless?: true
}

type Blueprint = Case['blueprint']
type Node = Blueprint['nodes'][number]

/** The case's blueprint and those of its subflows, to any depth. */
function allBlueprints(testCase: Case): Blueprint[] {
	const found = new Map<string, WorkflowBlueprint>()
	const visit = (blueprint: Blueprint): void => {
		for (const { params } of blueprint.nodes) {
			const child = children.find(({ id }) => id === params?.['blueprintId'])
			if (child === undefined || found.has(child.id)) continue
			found.set(child.id, child)
			visit(child)
		}
	}
	visit(testCase.blueprint)
	return [testCase.blueprint, ...found.values()]
}

const someNode = (testCase: Case, holds: (node: Node) => boolean): boolean =>
	allBlueprints(testCase).some(({ nodes }) => nodes.some(holds))

const predecessors = ({ edges }: Blueprint, nodeId: string): string[] => [
	...new Set(edges.filter(({ target }) => target === nodeId).map(({ source }) => source)),
]

/** How many of its predecessors have completed in process. */
const arrivalsAt = (blueprint: Blueprint, nodeId: string, reference: Reference | undefined): number =>
	predecessors(blueprint, nodeId).filter((source) =>
		Object.hasOwn(reference?.context ?? {}, `_outputs.${source}`),
	).length

/** Whether a way leads from one to the other. */
function reaches(blueprint: Blueprint, from: string, to: string): boolean {
	const seen = new Set<string>()
	const queue = [from]
	for (let id = queue.pop(); id !== undefined; id = queue.pop()) {
		for (const { source, target } of blueprint.edges) {
			if (source !== id || seen.has(target)) continue
			if (target === to) return true
			seen.add(target)
			queue.push(target)
		}
	}
	return false
}

const isInLoop = (blueprint: Blueprint, nodeId: string): boolean => reaches(blueprint, nodeId, nodeId)

/** The action that a node of the catalogue takes; undefined if it takes none, or if that depends on its input. */
function actionOf({ uses, params }: Node): { readonly known: boolean; readonly action?: unknown } {
	if (uses === 'loop-controller' || uses === 'wait') return { known: false }
	if (uses !== 'route') return { known: true }
	return params?.['action'] === undefined ? { known: false } : { known: true, action: params['action'] }
}

const READS_ITS_INPUT = new Set(['echo', 'wrap', 'add', 'route', 'double', 'picky', 'phases', 'is-date'])
const WAITS = new Set(['sleep', 'wait', 'nap', 'await-self', 'webhook'])
/** How long `slow` takes, in ms. */
const SLOW_MS = 200

const maxAttempts = ({ config }: Node): number => config?.maxRetries ?? 1
const isClass = ({ uses }: Node): boolean => {
	const implementation = registry[uses]
	return implementation !== undefined && isNodeClass(implementation)
}
const isClassThatFails = ({ uses, params }: Node): boolean =>
	uses === 'phases' && params?.['succeedsAt'] !== undefined && params['rescue'] !== true

export const differences: readonly Difference[] = [
	{
		number: 1,
		title: 'what cannot run as it stands is refused, every fault of it listed',
		applies: ({ blueprint }) => {
			try {
				validateBlueprint({ id: 'x', ...blueprint })
				return false
			} catch {
				return true
			}
		},
	},
	{
		number: 2,
		title: 'where all edges are of other actions, none is taken',
		applies: ({ blueprint: { nodes, edges } }) =>
			nodes.some((node) => {
				const outgoing = edges.filter(({ source }) => source === node.id)
				const { known, action } = actionOf(node)
				return (
					known &&
					outgoing.length > 0 &&
					outgoing.every((edge) => edge.action && edge.action !== action)
				)
			}),
	},
	{
		number: 3,
		title: 'the default input of a join is that of the last taken edge in blueprint order',
		applies: ({ blueprint }, reference) =>
			blueprint.nodes.some(
				({ id, uses, inputs }) =>
					inputs === undefined &&
					READS_ITS_INPUT.has(uses) &&
					arrivalsAt(blueprint, id, reference) > 1 &&
					!isInLoop(blueprint, id),
			),
	},
	{
		number: 4,
		title: 'an expression that throws fails its node',
		applies: ({ blueprint }) => blueprint.edges.some(({ condition }) => condition === 'throw'),
	},
	{
		number: 5,
		title: 'an any join runs once, however many arrive',
		applies: ({ blueprint }, reference) =>
			blueprint.nodes.some(
				({ id, config }) =>
					config?.joinStrategy === 'any' &&
					!isInLoop(blueprint, id) &&
					arrivalsAt(blueprint, id, reference) > 1,
			),
	},
	{
		number: 6,
		title: 'a timeout works',
		applies: (testCase) =>
			someNode(
				testCase,
				({ uses, config }) => uses === 'slow' && (config?.timeout ?? Infinity) < SLOW_MS,
			),
	},
	{
		number: 7,
		title: 'middleware and prep run on each attempt',
		applies: (testCase) =>
			someNode(
				testCase,
				(node) => maxAttempts(node) > 1 && (isClass(node) || testCase.setup === 'middleware'),
			),
	},
	{
		number: 8,
		title: 'an attempt that fails leaves nothing in the context',
		applies: (testCase) =>
			someNode(
				testCase,
				(node) =>
					node.uses === 'write-then-fail' ||
					isClassThatFails(node) ||
					(testCase.setup === 'middleware' && node.uses === 'flaky'),
			),
	},
	{
		number: 9,
		title: 'of parallel writes of one key the later commit counts',
		applies: ({ blueprint }) => {
			const writers = blueprint.nodes.filter(({ params }) => params?.['writes'] !== undefined)
			return writers.some((a) =>
				writers.some(
					(b) =>
						a !== b &&
						!reaches(blueprint, a.id, b.id) &&
						!reaches(blueprint, b.id, a.id) &&
						Object.keys(a.params?.['writes'] as object).some((key) =>
							Object.hasOwn(b.params?.['writes'] as object, key),
						),
				),
			)
		},
	},
	{
		number: 10,
		title: 'a run completes only if every failure was recovered; a fallback runs once for each that it stands in for',
		applies: ({ blueprint: { nodes } }, reference) => {
			const fallbacks = nodes.flatMap(({ config }) => config?.fallback ?? [])
			const ran = fallbacks.filter(
				(id) =>
					Object.hasOwn(reference?.context ?? {}, `_outputs.${id}`) ||
					reference?.failed.includes(id),
			)
			const isShared = new Set(ran).size < ran.length
			const isChained = nodes.some(({ id, config }) => config?.fallback && ran.includes(id))
			return ran.length > 0 && (isShared || isChained || (reference?.failed.length ?? 0) > 0)
		},
	},
	{
		number: 11,
		title: 'an error has the message that the node threw',
		messagesOnly: true,
		applies: (_, reference) => (reference?.failed.length ?? 0) > 0,
	},
	{
		number: 12,
		title: 'subflows are runs of their own, at most 32 levels deep',
		endless: true,
		applies: (testCase) =>
			allBlueprints(testCase).some((blueprint) =>
				blueprint.nodes.some(({ params }) => {
					const child = children.find(({ id }) => id === params?.['blueprintId'])
					return child?.nodes.some((node) => node.params?.['blueprintId'] === child.id)
				}),
			),
	},
	{
		number: 13,
		title: 'what waits goes on by itself, or when it is resumed, by the action that it is resumed with',
		applies: (testCase) =>
			someNode(testCase, ({ uses, params }) => WAITS.has(uses) && params?.['duration'] !== 'soon'),
	},
	{
		number: 14,
		title: 'a node cannot make another one wait',
		applies: (testCase) => someNode(testCase, ({ uses }) => uses === 'await-other'),
	},
	{
		number: 15,
		title: 'Flowcraft’s own node classes are taken for the engine’s nodes',
		applies: (testCase) => someNode(testCase, ({ uses }) => uses === 'nap'),
	},
	{
		number: 16,
		title: 'values travel as text',
		applies: (testCase) =>
			testCase.setup !== 'serializer' && someNode(testCase, ({ uses }) => uses === 'date'),
	},
	{
		number: 17,
		title: 'loops turn by generation: joins in them count per turn, nested ones begin anew',
		applies: ({ blueprint }) => {
			const inLoops = blueprint.nodes.filter(({ id }) => isInLoop(blueprint, id))
			const controllers = inLoops.filter(({ uses }) => uses === 'loop-controller')
			const joins = inLoops.filter(
				({ id, config }) => config?.joinStrategy !== 'any' && predecessors(blueprint, id).length > 1,
			)
			return inLoops.length > 0 && (controllers.length !== 1 || joins.length > 0)
		},
	},
	{
		number: 18,
		title: 'batches keep the order of the input, in chunks too, and may be empty',
		applies: ({ blueprint: { nodes } }) =>
			nodes.some(({ uses, params }) => {
				const items = nodes.find(({ id }) => id === 'list')?.params?.['value']
				return (
					uses === 'batch-scatter' &&
					Array.isArray(items) &&
					(items.length === 0 || Number(params?.['chunkSize'] ?? Infinity) < items.length)
				)
			}),
	},
	{
		number: 19,
		title: 'a node that is added under an id that is taken fails who adds it',
		applies: ({ blueprint: { nodes } }) =>
			nodes.some(({ uses, params }) => {
				const added = uses === 'add-nodes' ? (params?.['nodes'] as Node[]) : []
				return added.some(({ id }) => nodes.some((node) => node.id === id))
			}),
	},
	{
		number: 20,
		title: 'inputs may be a path',
		applies: ({ blueprint: { nodes }, input }) =>
			nodes.some(({ inputs }) =>
				(typeof inputs === 'string' ? [inputs] : Object.values(inputs ?? {})).some(
					(name) =>
						name.includes('.') && !name.startsWith('_') && !Object.hasOwn(input ?? {}, name),
				),
			),
	},
	{
		number: 21,
		title: 'a webhook gives out a URL by itself, and a wait for it ends',
		applies: (testCase) => someNode(testCase, ({ uses }) => uses === 'webhook'),
	},
	{
		number: 22,
		title: 'context.patch works',
		applies: (testCase) => someNode(testCase, ({ uses }) => uses === 'patch'),
	},
]
