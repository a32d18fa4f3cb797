/**
 * A loop: looks up what a question is about, then what that is explained with, until nothing is left unexplained.
 *
 *                ┌────────────────────────────────────────────────┐
 *                ▼             ┌─► look_up ────────────┐          │
 *     begin ─► go_on ──────────┤                       ├─► assess ┘
 *            (loop controller) ├─► look_for_mentions ──┘  (all join)
 *                              └─► report
 *
 * Each turn is a generation of its own: its two searches run side by side, on any workers, and meet in the join of
 * that turn. The condition is a value in the context, `research.goesOn`, which `assess` sets.
 */
import type { NodeRegistry, WorkflowBlueprint } from 'flowcraft'
import { z } from 'zod'
import { parseInput } from '../parse-input.js'
import { GLOSSARY, termsIn } from './glossary.js'

const DEFAULT_TURNS = 8

const researchLoop: WorkflowBlueprint = {
	id: 'research-loop',
	metadata: {
		version: '1.0.0',
		description: 'Reads a glossary until a question is explained with nothing unexplained left.',
	},
	nodes: [
		{ id: 'begin', uses: 'research.begin', inputs: { question: 'question', maxTurns: 'maxTurns' } },
		{
			id: 'go_on',
			uses: 'loop-controller',
			params: { condition: 'research.goesOn' },
			config: { joinStrategy: 'any' },
		},
		{ id: 'look_up', uses: 'research.look-up', inputs: 'research' },
		{ id: 'look_for_mentions', uses: 'research.look-for-mentions', inputs: 'research' },
		{
			id: 'assess',
			uses: 'research.assess',
			inputs: { explained: 'look_up', mentions: 'look_for_mentions' },
			config: { joinStrategy: 'all' },
		},
		{ id: 'report', uses: 'research.report', inputs: 'question' },
	],
	edges: [
		{ source: 'begin', target: 'go_on' },
		{ source: 'go_on', target: 'look_up', action: 'continue' },
		{ source: 'go_on', target: 'look_for_mentions', action: 'continue' },
		{ source: 'look_up', target: 'assess' },
		{ source: 'look_for_mentions', target: 'assess' },
		{ source: 'assess', target: 'go_on' },
		{ source: 'go_on', target: 'report', action: 'break' },
	],
}

/** Under the key `research` in the context: what is known after each turn. */
const researchSchema = z.object({
	goesOn: z.boolean(),
	turn: z.number(),
	maxTurns: z.number(),
	/** Terms that were met and are not explained yet. */
	open: z.array(z.string()),
	explained: z.record(z.string(), z.string()),
	/** How often other entries mention a term. */
	mentions: z.record(z.string(), z.number()),
})

type Research = z.infer<typeof researchSchema>

const registry: NodeRegistry = {
	'research.begin': async ({ context, input }) => {
		const schema = z.object({
			question: z.string().min(1),
			maxTurns: z.int().min(1).max(100).nullish(),
		})
		const { question, maxTurns } = parseInput('input', schema, input)
		const open = termsIn(question)
		const research: Research = {
			goesOn: open.length > 0,
			turn: 0,
			maxTurns: maxTurns ?? DEFAULT_TURNS,
			open,
			explained: {},
			mentions: {},
		}
		await context.set('research', research)
		return { output: { open } }
	},

	/** The entries of the open terms. */
	'research.look-up': async ({ context }) => {
		const { open } = await researchIn(context)
		return { output: Object.fromEntries(open.map((term) => [term, GLOSSARY[term] ?? ''])) }
	},

	/** How many entries mention each open term: what everything leans on is worth knowing first. */
	'research.look-for-mentions': async ({ context }) => {
		const { open } = await researchIn(context)
		const count = (term: string): number =>
			Object.entries(GLOSSARY).filter(([other, text]) => other !== term && termsIn(text).includes(term))
				.length
		return { output: Object.fromEntries(open.map((term) => [term, count(term)])) }
	},

	'research.assess': async ({ context, input }) => {
		const schema = z.object({
			explained: z.record(z.string(), z.string()),
			mentions: z.record(z.string(), z.number()),
		})
		const found = parseInput('assessment', schema, input)
		const before = await researchIn(context)
		const explained = { ...before.explained, ...found.explained }
		const open = [...new Set(Object.values(found.explained).flatMap(termsIn))].filter(
			(term) => !Object.hasOwn(explained, term),
		)
		const turn = before.turn + 1
		const research: Research = {
			...before,
			goesOn: open.length > 0 && turn < before.maxTurns,
			turn,
			open,
			explained,
			mentions: { ...before.mentions, ...found.mentions },
		}
		await context.set('research', research)
		return { output: { turn, open } }
	},

	'research.report': async ({ context, input }) => {
		const { turn, open, explained, mentions } = await researchIn(context)
		const terms = Object.keys(explained).sort(
			(a, b) => (mentions[b] ?? 0) - (mentions[a] ?? 0) || a.localeCompare(b),
		)
		return {
			output: {
				question: input,
				turns: turn,
				isComplete: open.length === 0,
				open,
				answer: terms.map((term) => `${term}: ${explained[term] ?? ''}`),
			},
		}
	},
}

async function researchIn(context: { get(key: 'research'): Promise<unknown> }): Promise<Research> {
	return parseInput('research', researchSchema, await context.get('research'))
}

export const research = { blueprints: { [researchLoop.id]: researchLoop }, registry }
