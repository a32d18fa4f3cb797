/**
 * Reading the environment: each process declares what it takes, everything is checked once, and all faults are
 * reported together under their variables' names. Nothing else reads `process.env`.
 */
import { z } from 'zod'

export type Environment = Readonly<Record<string, string | undefined>>

/** The environment cannot be used; `message` names every variable at fault, one per line. */
export class EnvironmentError extends Error {
	constructor(faults: readonly string[]) {
		super(faults.join('\n'))
		this.name = 'EnvironmentError'
	}
}

/**
 * The variables of `schema`, checked. An empty variable counts as unset, as in a shell's `VAR= command`.
 * @throws EnvironmentError
 */
export function readEnvironment<S extends z.ZodRawShape>(env: Environment, schema: z.ZodObject<S>): z.infer<z.ZodObject<S>> {
	const given = Object.fromEntries(Object.keys(schema.shape).map((name) => [name, env[name] === '' ? undefined : env[name]]))
	const parsed = schema.safeParse(given)
	if (parsed.success) return parsed.data
	throw new EnvironmentError(
		parsed.error.issues.map((issue) => {
			const name = String(issue.path[0])
			return given[name] === undefined ? `${name} is not set: ${issue.message}` : `${name} is invalid: ${issue.message}`
		}),
	)
}

/** A whole number within bounds. */
export function wholeNumber(min: number, max: number, unit: string): z.ZodType<number> {
	const message = `expected a whole number of ${unit} from ${min} to ${max}`
	return z
		.string()
		.regex(/^\d+$/, message)
		.transform(Number)
		.refine((value) => value >= min && value <= max, message)
}

/** A URL with one of these schemes. */
export function urlOf(...schemes: readonly string[]): z.ZodType<string> {
	const message = `expected a URL that begins with ${schemes.map((scheme) => `${scheme}://`).join(' or ')}`
	return z.string({ error: message }).refine((text) => {
		try {
			return schemes.includes(new URL(text).protocol.slice(0, -1))
		} catch {
			return false
		}
	}, message)
}

export const databaseUrl = urlOf('postgres', 'postgresql')
export const rabbitMqUrl = urlOf('amqp', 'amqps')
export const redisUrl = urlOf('redis', 'rediss')
