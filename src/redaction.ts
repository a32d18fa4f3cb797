/**
 * Keeping secrets out of logs and out of the history of runs: values under configured names, credentials in URLs, tokens
 * of webhooks, and secrets that the process itself was given. What is stored stays whole: it is left out when it is shown.
 */
import type { Environment } from './environment.js'

export const REDACTED = '[redacted]'

/** Names whose values are left out unless the operator names others. */
export const DEFAULT_REDACT_KEYS: readonly string[] = [
	'password',
	'passwd',
	'secret',
	'client_secret',
	'token',
	'access_token',
	'refresh_token',
	'api_key',
	'x-api-key',
	'private_key',
	'authorization',
	'cookie',
	'set-cookie',
]

export interface Redactor {
	/** A copy without what is to be left out. Errors become plain objects, what JSON does not know becomes text. */
	value(value: unknown): unknown
	/** Prose: messages, stacks. */
	text(text: string): string
	/** JSON as text; the same text if nothing of it is to be left out. */
	json(text: string): string
}

export interface RedactionOptions {
	/** Names of fields, at any depth; `api_key` means `apiKey` and `API-KEY` too. Default `DEFAULT_REDACT_KEYS`. */
	readonly keys?: readonly string[]
	/** Texts that may stand nowhere. */
	readonly secrets?: readonly string[]
}

export function createRedactor({
	keys = DEFAULT_REDACT_KEYS,
	secrets = [],
}: RedactionOptions = {}): Redactor {
	const names = new Set(keys.map(normalized))
	// Each of the patterns is bounded: a text of a million letters must not take a million looks at each.
	const suspicious = new RegExp(
		[
			...keys.map(spellings),
			String.raw`://[^\s:/@]{0,200}:[^\s@/]{1,500}@`,
			'/webhooks/',
			...secrets.map(escaped),
		].join('|'),
		'i',
	)
	const assigned =
		keys.length === 0
			? undefined
			: new RegExp(
					// `token=x`, `"token": "x"`, `authorization: Bearer x`
					`((?<![\\w-])(?:${keys.map(spellings).join('|')})\\\\?["']?\\s*[:=](?!=)\\s*\\\\?["']?)((?:Bearer|Basic) +)?[^\\s"'\\\\,;&)}\\]]+`,
					'gi',
				)

	const text = (given: string): string => {
		if (!suspicious.test(given)) return given
		let shown = given
		for (const secret of secrets) shown = shown.replaceAll(secret, REDACTED)
		shown = shown
			.replace(/(:\/\/[^\s:/@]{0,200}):[^\s@/]{1,500}@/g, `$1:${REDACTED}@`)
			.replace(/(\/webhooks\/)[\w-]{16,}/g, `$1${REDACTED}`)
		return assigned === undefined
			? shown
			: shown.replace(assigned, (_, head: string) => `${head}${REDACTED}`)
	}

	const visit = (value: unknown, above: readonly object[]): unknown => {
		if (typeof value === 'string') return text(value)
		if (typeof value === 'bigint' || typeof value === 'symbol' || typeof value === 'function')
			return String(value)
		if (typeof value !== 'object' || value === null) return value
		if (above.includes(value)) return '[circular]'
		const inside = [...above, value]
		if (value instanceof Error) return visit(plainError(value), inside)
		if ('toJSON' in value && typeof value.toJSON === 'function')
			return visit((value.toJSON as () => unknown)(), inside)
		if (Array.isArray(value)) return value.map((item) => visit(item, inside))
		return Object.fromEntries(
			Object.entries(value).map(([name, content]) => [
				name,
				names.has(normalized(name)) && content !== undefined && content !== null
					? REDACTED
					: visit(content, inside),
			]),
		)
	}

	/** What is too deep to be looked through is not shown. */
	const value = (given: unknown): unknown => {
		try {
			return visit(given, [])
		} catch (error) {
			if (error instanceof RangeError) return REDACTED
			throw error
		}
	}

	return {
		value,
		text,
		json: (given) => (suspicious.test(given) ? JSON.stringify(value(JSON.parse(given))) : given),
	}
}

/** In the form of pino's, with what an error carries beside its message. */
function plainError(error: Error): object {
	const { name, message, stack, cause } = error
	return {
		...Object.fromEntries(Object.entries(error)),
		type: name,
		message,
		stack,
		...(cause === undefined ? {} : { cause }),
		...(error instanceof AggregateError ? { errors: error.errors as unknown[] } : {}),
	}
}

const normalized = (name: string): string => name.toLowerCase().replaceAll(/[-_]/g, '')
const escaped = (text: string): string => text.replaceAll(/[.*+?^${}()|[\]\\]/g, String.raw`\$&`)

/** A pattern for a name as it is written here and there. */
const spellings = (name: string): string =>
	name
		.split(/[-_]|(?<=[a-z])(?=[A-Z])/)
		.filter((part) => part !== '')
		.map(escaped)
		.join('[-_]?')

/** Shorter ones are words that logs need for other things, and no secrets worth the name. */
const MIN_SECRET_LENGTH = 8

/**
 * The secrets of a process: passwords in URLs, and variables whose names say so. A password that is also the name of the
 * user or the database is none.
 */
export function secretsOf(env: Environment): string[] {
	const secrets = Object.entries(env).flatMap(([name, value = '']) => {
		if (name === 'API_KEYS') return value.split(',').map((entry) => entry.trim().split(':')[1] ?? '')
		if (/(SECRET|PASSWORD|PASSWD|TOKEN|KEY)$/i.test(name)) return [value]
		return value.includes('://') ? passwordOf(value) : []
	})
	return [...new Set(secrets)].filter((secret) => secret.length >= MIN_SECRET_LENGTH)
}

function passwordOf(url: string): string[] {
	const [, user = '', password, rest = ''] = /:\/\/([^:@/]*):([^@]*)@(.*)$/s.exec(url) ?? []
	if (password === undefined || password === user || rest.split('/')[1]?.split('?')[0] === password)
		return []
	try {
		return [password, decodeURIComponent(password)]
	} catch {
		return [password]
	}
}
