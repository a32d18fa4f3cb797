/**
 * Reading the environment: each process declares what it takes, everything is checked once, and all faults are
 * reported together, each under its variable's name. Nothing else reads `process.env`.
 */
import { z } from 'zod'
import { DEFAULT_REDACT_KEYS } from './redaction.js'

export type Environment = Readonly<Record<string, string | undefined>>

/** The environment cannot be used. */
export class EnvironmentError extends Error {
	/** Each begins with the name of a variable. */
	readonly faults: readonly string[]

	constructor(faults: readonly string[]) {
		super(`The environment is invalid:\n${faults.map((fault) => `  ${fault}`).join('\n')}`)
		this.name = 'EnvironmentError'
		this.faults = faults
	}
}

/**
 * The variables of `schema`, checked. A variable that is set to nothing, as `docker compose` does, is not set.
 * @param moreFaults what the caller has found beyond single variables
 * @throws EnvironmentError
 */
export function readEnvironment<T extends z.ZodObject>(
	env: Environment,
	schema: T,
	moreFaults: readonly string[] = [],
): z.output<T> {
	const given = Object.fromEntries(
		Object.entries(env).filter(([, value]) => value !== undefined && value !== ''),
	)
	const parsed = schema.safeParse(given)
	const faults = [
		...(parsed.error?.issues ?? []).map((issue) => `${issue.path.join('.')} ${issue.message}`),
		...moreFaults,
	]
	if (!parsed.success || faults.length > 0) throw new EnvironmentError(faults)
	return parsed.data
}

/** A whole number within bounds, and what counts when the variable is not set. */
export function wholeNumber(min: number, max: number, fallback: number) {
	return z
		.string()
		.default(String(fallback))
		.refine(
			(text) => /^\d{1,15}$/.test(text) && Number(text) >= min && Number(text) <= max,
			`must be a whole number from ${min} to ${max}`,
		)
		.transform(Number)
}

/** Entries separated by commas, none of them empty. */
export function listOf<T extends string>(
	accepts: (entry: string) => entry is T,
	fault: string,
): z.ZodType<T[]>
export function listOf(accepts: (entry: string) => boolean, fault: string): z.ZodType<string[]>
export function listOf(accepts: (entry: string) => boolean, fault: string): z.ZodType<string[]> {
	return z
		.string()
		.transform((text) =>
			text
				.split(',')
				.map((entry) => entry.trim())
				.filter((entry) => entry !== ''),
		)
		.refine((entries) => entries.every(accepts), fault)
}

/** Names whose values are kept out of logs and history; `none` for no names. */
export const redactKeys = listOf(
	(name) => /^[\w.-]{1,100}$/.test(name),
	'must be names, separated by commas, or none',
)
	.transform((names) => (names.join() === 'none' ? [] : names))
	.default([...DEFAULT_REDACT_KEYS])

/** A URL that names a host under one of these schemes. */
function urlOf(example: string, ...schemes: readonly string[]): z.ZodString {
	return z
		.string(`is not set, for example ${example}`)
		.regex(
			new RegExp(`^(${schemes.join('|')})://[^/]`),
			`must begin with ${schemes.map((scheme) => `${scheme}://`).join(' or ')} and name a host`,
		)
}

export const databaseUrl = urlOf(
	'postgres://user:password@127.0.0.1:5432/flowcraft',
	'postgres',
	'postgresql',
)
export const rabbitMqUrl = urlOf('amqp://user:password@127.0.0.1:5672', 'amqp', 'amqps')
export const redisUrl = urlOf('redis://127.0.0.1:6379', 'redis', 'rediss')

/** Where clients reach the functions, without a slash at the end. */
export const publicUrl = z
	.string()
	.refine((text) => /^https?:\/\//.test(text) && URL.canParse(text), 'must be an http or https URL')
	.transform((text) => text.replace(/\/+$/, ''))

/** What both read, or an EnvironmentError with the faults of both. */
export function readTogether<A, B>(first: () => A, second: () => B): [A, B] {
	const faults: string[] = []
	const attempt = <T>(read: () => T): T | undefined => {
		try {
			return read()
		} catch (error) {
			if (!(error instanceof EnvironmentError)) throw error
			faults.push(...error.faults)
			return undefined
		}
	}
	const [a, b] = [attempt(first), attempt(second)]
	if (a === undefined || b === undefined) throw new EnvironmentError([...new Set(faults)])
	return [a, b]
}
