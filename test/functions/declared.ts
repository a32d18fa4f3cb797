/** The API's contract as committed, and whether an answer keeps it. */
import { readFileSync } from 'node:fs'
import { z } from 'zod'

interface Media {
	readonly schema: object
	readonly example?: unknown
	readonly examples?: Readonly<Record<string, { readonly value: unknown }>>
}
interface Described {
	readonly content?: Readonly<Record<string, Media>>
}
export interface Operation {
	readonly operationId: string
	readonly parameters?: readonly { readonly name: string; readonly schema: object }[]
	readonly requestBody?: Described
	readonly responses: Readonly<Record<string, Described>>
}

const document = JSON.parse(
	readFileSync(new URL('../../functions/openapi.json', import.meta.url), 'utf8'),
) as {
	readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>
	readonly components: { readonly schemas: Readonly<Record<string, object>> }
}

/** JSON Schema with its references where zod looks for them. */
const local = (schema: object): object =>
	JSON.parse(JSON.stringify(schema).replaceAll('#/components/schemas/', '#/$defs/')) as object
const $defs = local(document.components.schemas)
const validators = new Map<object, z.ZodType>()

/** What is wrong with a value, by a schema of the document; undefined if nothing is. */
export function faultsBy(schema: object, value: unknown): string | undefined {
	let validator = validators.get(schema)
	if (validator === undefined)
		validators.set(
			schema,
			(validator = z.fromJSONSchema({ ...local(schema), $defs } as z.core.JSONSchema.JSONSchema)),
		)
	const { error } = validator.safeParse(value)
	return error === undefined ? undefined : z.prettifyError(error)
}

export const OPERATIONS = Object.entries(document.paths).flatMap(([path, methods]) =>
	Object.entries(methods).map(([method, operation]) => ({
		method: method.toUpperCase(),
		path,
		pattern: new RegExp(`^${path.replaceAll('.', '\\.').replaceAll(/\{\w+\}/g, '[^/?]+')}$`),
		operation,
	})),
)

/**
 * Every answer that a test of the HTTP API sees comes by here.
 * @throws for a status that its operation does not declare, and for JSON that is not of the declared shape
 */
export function expectDeclared(
	method: string,
	path: string,
	answer: { readonly status: number; readonly headers: Headers; readonly body: unknown },
): void {
	const [pathname = ''] = path.split('?')
	const found = OPERATIONS.find((each) => each.method === method && each.pattern.test(pathname))
	if (found === undefined) return
	const said = `${method} ${found.path} answered ${answer.status}`
	const declared = found.operation.responses[answer.status]
	if (declared === undefined) throw new Error(`${said}, which openapi.json does not declare`)
	const [type = ''] = (answer.headers.get('content-type') ?? '').split(';')
	const media = declared.content?.[type]
	if (type !== '' && media === undefined)
		throw new Error(`${said} with ${type}, which openapi.json does not declare`)
	if (media === undefined || !type.includes('json')) return
	const faults = faultsBy(media.schema, answer.body)
	if (faults !== undefined)
		throw new Error(`${said} with a body that is not what openapi.json declares:\n${faults}`)
}
