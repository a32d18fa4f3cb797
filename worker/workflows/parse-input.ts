/** Checks what a node was given. Wrong input stays wrong however often the node runs, so it fails at once, for good. */
import { FlowcraftError } from 'flowcraft'
import type { z } from 'zod'

/** `name` leads the message: the key of the run's input, or the node, that is at fault. */
export function parseInput<T>(name: string, schema: z.ZodType<T>, value: unknown): T {
	const parsed = schema.safeParse(value)
	if (parsed.success) return parsed.data
	const faults = parsed.error.issues.map((issue) =>
		[[name, ...issue.path].join('.'), issue.message].join(': '),
	)
	throw new FlowcraftError(faults.join('; '), { isFatal: true, cause: parsed.error })
}
