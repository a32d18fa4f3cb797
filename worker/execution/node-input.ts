/** A node's input: what its `inputs` name in the context, or what the last taken edge brought. */
import type { NodeDefinition } from 'flowcraft'
import type { ClaimedNode } from '../../src/claim/claim.js'
import type { BufferedContext } from '../../src/context/node-context.js'
import type { ValueCodec } from '../../src/context/values.js'

export async function resolveInput(
	node: NodeDefinition,
	claimed: ClaimedNode,
	context: BufferedContext,
	codec: ValueCodec,
): Promise<unknown> {
	const { inputs } = node
	if (inputs && !claimed.transformed) {
		if (typeof inputs === 'string') return (await lookUp([inputs], context))[0]
		const names = Object.keys(inputs)
		const values = await lookUp(
			names.map((name) => inputs[name] as string),
			context,
		)
		return Object.fromEntries(names.map((name, position) => [name, values[position]]))
	}
	if (claimed.hasInput) return codec.decode(claimed.input)
	if (claimed.given !== undefined) return codec.decode(claimed.given)
	return context.get(`_inputs.${node.id}`)
}

/** Each reference is a node whose output is meant, a key, or a path into one of them (`node.prop.sub`). */
export async function lookUp(references: readonly string[], context: BufferedContext): Promise<unknown[]> {
	const candidates = references.map(candidatesOf)
	const found = await context.pick(candidates.flat().map(({ key }) => key))
	return candidates.map((options) => {
		const option = options.find(({ key }) => Object.hasOwn(found, key))
		return option?.path.reduce<unknown>(
			(value, part) =>
				typeof value === 'object' && value !== null
					? (value as Record<string, unknown>)[part]
					: undefined,
			found[option.key],
		)
	})
}

interface Candidate {
	readonly key: string
	readonly path: readonly string[]
}

/** In the order in which they count: the whole reference before shorter prefixes, outputs before plain keys. */
function candidatesOf(reference: string): Candidate[] {
	const parts = reference.split('.')
	const candidates: Candidate[] = []
	for (let length = parts.length; length > 0; length--) {
		const key = parts.slice(0, length).join('.')
		const path = parts.slice(length)
		if (!key.startsWith('_')) candidates.push({ key: `_outputs.${key}`, path })
		if (key !== '') candidates.push({ key, path })
	}
	return candidates
}
