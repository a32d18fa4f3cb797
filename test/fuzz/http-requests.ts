/**
 * Requests made from the schemas that check them: valid ones by the OpenAPI document, and then damaged in one way or
 * another. The same schemas, as zod knows them, tell afterwards which of them are in order.
 */
import type { z } from '@hono/zod-openapi'
import fc from 'fast-check'
import type { App } from '../../functions/endpoint.js'
import { createDocument } from '../../functions/openapi.js'
import { storageFaults } from '../../functions/storable.js'
import type { RawRequest } from './raw-http.js'
import { anyJson, arbitraryOf, FAULTY_TEXTS, HOSTILE_TEXTS, type Schema } from './schema-arbitrary.js'

/** Texts that mean something in the system under test, by the name of a parameter or field. */
export type KnownTexts = Readonly<Record<string, readonly string[]>>

export interface FuzzRequest extends RawRequest {
	/** `POST /runs/{id}/cancel`, or what it pretends to be. */
	readonly operation: string
	/** Undefined: undamaged. */
	readonly damage: string | undefined
	/** Whether the schemas of the operation accept every part of it. */
	readonly fitsSchemas: boolean
}

interface Parameter {
	readonly name: string
	readonly in: string
	readonly required?: boolean
	readonly schema?: Schema
}

interface Operation {
	readonly parameters?: readonly Parameter[]
	readonly requestBody?: {
		readonly required?: boolean
		readonly content: Readonly<Record<string, { readonly schema?: Schema; readonly example?: unknown }>>
	}
}

/** What `describe` in functions/openapi.ts has registered of an operation. */
interface RouteSchemas {
	readonly method: string
	readonly path: string
	readonly request: {
		readonly params?: z.ZodType
		readonly query?: z.ZodType
		readonly headers?: z.ZodType
		readonly body?: {
			readonly content: Readonly<Record<string, { readonly schema: z.ZodType | object }>>
		}
	}
}

/** Parts of a request before they are put together. */
interface Parts {
	readonly path: Record<string, string>
	readonly query: [string, string][]
	readonly headers: Record<string, string>
	/** Undefined: none. */
	readonly body: unknown
}

/** Beside the operation's own headers, which are made from its schemas. */
export interface FuzzOptions {
	readonly known: KnownTexts
	/** Sent with each request, unless damage takes it away. */
	readonly credentials: Readonly<Record<string, string>>
}

/** Arbitrary requests over every operation of the document, some for nothing that it knows. */
export function fuzzRequests(app: App, options: FuzzOptions): fc.Arbitrary<FuzzRequest> {
	const document = createDocument(app)
	const schemas = (document.components?.schemas ?? {}) as Readonly<Record<string, Schema>>
	const resolve = (reference: string): Schema => schemas[reference.split('/').at(-1) ?? ''] ?? {}
	const known = (name: string): readonly string[] => options.known[name] ?? []
	const routes = app.openAPIRegistry.definitions.flatMap((definition) =>
		definition.type === 'route' ? [definition.route as unknown as RouteSchemas] : [],
	)
	return fc.oneof(
		...routes.map((route) => {
			const operation = (document.paths as Record<string, Record<string, Operation>>)[route.path]?.[
				route.method
			]
			if (operation === undefined) throw new Error(`${route.method} ${route.path} is not documented`)
			const body = operation.requestBody?.content['application/json']
			// Whoever has a body to check has more to get wrong.
			const weight = body === undefined ? 2 : 5
			return {
				weight,
				arbitrary: requestOf(route, partsOf(operation, body, resolve, known), options),
			}
		}),
	)
}

function partsOf(
	operation: Operation,
	body: { readonly schema?: Schema; readonly example?: unknown } | undefined,
	resolve: (reference: string) => Schema,
	known: (name: string) => readonly string[],
): fc.Arbitrary<Parts> {
	const valueOf = ({ schema = {}, name }: Parameter): fc.Arbitrary<string> =>
		arbitraryOf(schema, resolve, known, name).map((value) =>
			typeof value === 'string' ? value : JSON.stringify(value),
		)
	const parameters = (place: string, required: boolean): fc.Arbitrary<Record<string, string>> => {
		const named = (operation.parameters ?? []).filter((parameter) => parameter.in === place)
		const fields = Object.fromEntries(named.map((parameter) => [parameter.name, valueOf(parameter)]))
		return fc.record(fields, required ? {} : { requiredKeys: [] }) as fc.Arbitrary<Record<string, string>>
	}
	const bodies =
		body === undefined
			? fc.constant(undefined)
			: fc.oneof(
					{ weight: 5, arbitrary: arbitraryOf(body.schema ?? {}, resolve, known) },
					{ weight: 1, arbitrary: fc.constant(body.example) },
					...(operation.requestBody?.required === true
						? []
						: [{ weight: 1, arbitrary: fc.constant(undefined) }]),
				)
	return fc.record({
		path: parameters('path', true),
		query: parameters('query', false).map((record) => Object.entries(record)),
		headers: parameters('header', false),
		body: bodies,
	})
}

/** In what way a request can be wrong, and how it gets so. */
type Damage = (parts: Parts, pick: (max: number) => number) => Partial<Wire> | undefined

/** What goes over the line, apart from method and path of the operation. */
interface Wire {
	readonly parts: Parts
	readonly method: string
	readonly rawPath: string
	readonly rawBody: string | Uint8Array
	readonly headers: Readonly<Record<string, string>>
	readonly withoutCredentials: boolean
}

const isObject = (value: unknown): value is Record<string, unknown> =>
	typeof value === 'object' && value !== null && !Array.isArray(value)

/** With the value of one field, somewhere in it, replaced. */
function replaceSomewhere(value: unknown, replacement: unknown, pick: (max: number) => number): unknown {
	if (typeof value !== 'object' || value === null || pick(3) === 0) return replacement
	if (Array.isArray(value)) {
		if (value.length === 0) return [replacement]
		const position = pick(value.length)
		return value.map((item, at) =>
			at === position ? replaceSomewhere(item, replacement, pick) : (item as unknown),
		)
	}
	const keys = Object.keys(value)
	const key = keys[pick(keys.length)]
	if (key === undefined) return { field: replacement }
	return { ...value, [key]: replaceSomewhere((value as Record<string, unknown>)[key], replacement, pick) }
}

const withBody = (parts: Parts, body: unknown): Partial<Wire> => ({ parts: { ...parts, body } })
const WRONG_VALUES: readonly unknown[] = [null, true, 7, -1, 1e308, 0.1, 'x', [], {}, [[]], ['x', 7]]

function nested(depth: number): unknown {
	let value: unknown = 1
	for (let i = 0; i < depth; i++) value = i % 2 === 0 ? [value] : { a: value }
	return value
}

const DAMAGES: Readonly<Record<string, Damage>> = {
	'an unknown field': ({ body, ...parts }, pick) =>
		isObject(body)
			? withBody({ body, ...parts }, { ...body, [HOSTILE_TEXTS[pick(HOSTILE_TEXTS.length)] ?? 'x']: 1 })
			: undefined,
	'a field of the wrong type': (parts, pick) =>
		parts.body === undefined
			? undefined
			: withBody(parts, replaceSomewhere(parts.body, WRONG_VALUES[pick(WRONG_VALUES.length)], pick)),
	'a missing field': ({ body, ...parts }, pick) => {
		if (!isObject(body)) return undefined
		const keys = Object.keys(body)
		const gone = keys[pick(keys.length)]
		return withBody(
			{ body, ...parts },
			Object.fromEntries(Object.entries(body).filter(([key]) => key !== gone)),
		)
	},
	'text that cannot be stored': (parts, pick) => {
		const text = FAULTY_TEXTS[pick(FAULTY_TEXTS.length)] ?? ''
		if (parts.body !== undefined) return withBody(parts, replaceSomewhere(parts.body, text, pick))
		const [name] = Object.keys(parts.path)
		return name === undefined
			? undefined
			: { parts: { ...parts, path: { ...parts.path, [name]: text.toWellFormed() } } }
	},
	'absurd depth': (parts, pick) =>
		parts.body === undefined
			? undefined
			: withBody(parts, replaceSomewhere(parts.body, nested(101 + pick(2_000)), pick)),
	'no JSON': ({ body }, pick) => {
		if (body === undefined) return undefined
		const text = JSON.stringify(body)
		return { rawBody: text.slice(0, pick(text.length)) }
	},
	'JSON with something behind it': ({ body }) =>
		body === undefined ? undefined : { rawBody: `${JSON.stringify(body)}}` },
	'a number that no double holds': (parts) =>
		parts.body === undefined ? undefined : { rawBody: '{"input":{"a":1e999},"blueprint":"idle"}' },
	'bytes that are no UTF-8': ({ body }, pick) =>
		body === undefined ? undefined : { rawBody: Uint8Array.from([0x22, 0x80 + pick(0x7f), 0xff, 0x22]) },
	'another type of body': ({ body }, pick) =>
		body === undefined
			? undefined
			: {
					headers: {
						'content-type':
							['text/plain', 'application/xml', 'application/json; charset=utf-16', 'json', ''][
								pick(5)
							] ?? '',
					},
				},
	'a body that says it is compressed': ({ body }) =>
		body === undefined ? undefined : { headers: { 'content-encoding': 'gzip' } },
	'a body over the limit': ({ body }) =>
		body === undefined ? undefined : { rawBody: JSON.stringify({ input: { a: 'x'.repeat(70_000) } }) },
	'an unknown parameter': (parts, pick) => ({
		parts: {
			...parts,
			query: [...parts.query, [HOSTILE_TEXTS[pick(HOSTILE_TEXTS.length)] ?? 'x', 'y']],
		},
	}),
	'a parameter that is given twice': (parts) => ({
		parts: { ...parts, query: [...parts.query, ['limit', '1'], ['limit', '2']] },
	}),
	'a parameter of the wrong form': (parts, pick) => ({
		parts: {
			...parts,
			query: [
				[
					['limit', 'cursor', 'wait', 'status', 'include'][pick(5)] ?? 'limit',
					['\u0000', '-1', '1e3', '[]', 'x'.repeat(300), "' or ''='", '٣'][pick(7)] ?? '',
				],
			],
		},
	}),
	'a path that is not encoded well': (_parts, pick) => ({
		rawPath: ['/runs/%', '/runs/%zz', '/runs/%ff', '/runs/%c0%80', '//runs', '/runs//nodes', '/runs/..'][
			pick(7)
		] as string,
	}),
	'an unknown path': (_parts, pick) => ({
		rawPath: ['/run', '/runs/x/y/z', '/admin', '/.env', '/runs/x/nodes/y', '/webhooks', '/%2e%2e/runs'][
			pick(7)
		] as string,
	}),
	'another method': (_parts, pick) => ({
		method: ['DELETE', 'PATCH', 'OPTIONS', 'TRACE', 'PROPFIND'][pick(5)] as string,
	}),
	'a bad idempotency key': (_parts, pick) => ({
		headers: { 'idempotency-key': ['', 'x'.repeat(300), '\u00e9', '\t'][pick(4)] ?? '' },
	}),
	'no credentials': () => ({ withoutCredentials: true }),
	'bad credentials': (_parts, pick) => ({
		withoutCredentials: true,
		headers: {
			authorization:
				['Bearer', 'Bearer x', 'Basic Zm9v', 'Bearer a.b.c', `Bearer ${'x'.repeat(4_000)}`, '\u00ff'][
					pick(6)
				] ?? '',
		},
	}),
}

function requestOf(
	route: RouteSchemas,
	parts: fc.Arbitrary<Parts>,
	options: FuzzOptions,
): fc.Arbitrary<FuzzRequest> {
	const damage = fc.oneof(
		{ weight: 3, arbitrary: fc.constant(undefined) },
		{ weight: 4, arbitrary: fc.constantFrom(...Object.keys(DAMAGES)) },
	)
	const picks = fc.array(fc.nat(1_000_000), { minLength: 12, maxLength: 12 })
	return fc.tuple(parts, damage, picks, anyJson).map(([whole, name, numbers]) => {
		let next = 0
		const pick = (max: number): number => (numbers[next++ % numbers.length] ?? 0) % Math.max(max, 1)
		const wire = name === undefined ? undefined : DAMAGES[name]?.(whole, pick)
		return assemble(route, whole, wire, wire === undefined ? undefined : name, options)
	})
}

function assemble(
	route: RouteSchemas,
	whole: Parts,
	wire: Partial<Wire> | undefined,
	damage: string | undefined,
	{ credentials }: FuzzOptions,
): FuzzRequest {
	const { path, query, headers, body } = wire?.parts ?? whole
	const queryText = query.map((pair) => pair.map((text) => encode(text)).join('=')).join('&')
	const filled = route.path.replaceAll(/\{(\w+)\}/g, (_, name: string) => encode(path[name] ?? ''))
	const text = wire?.rawBody ?? (body === undefined ? undefined : JSON.stringify(body))
	const sendable = Object.entries(headers).filter(([, value]) => /^[\t\x20-\x7e\x80-\xff]*$/.test(value))
	return {
		operation: `${route.method.toUpperCase()} ${route.path}`,
		damage,
		method: wire?.method ?? route.method.toUpperCase(),
		path: wire?.rawPath ?? `${filled}${queryText === '' ? '' : `?${queryText}`}`,
		headers: {
			...(wire?.withoutCredentials === true ? {} : credentials),
			...(text === undefined ? {} : { 'content-type': 'application/json' }),
			...Object.fromEntries(sendable),
			...wire?.headers,
		},
		body: text,
		fitsSchemas:
			(wire === undefined || (wire.parts !== undefined && Object.keys(wire).length === 1)) &&
			fits(route, path, query, Object.fromEntries(sendable), body),
	}
}

/** A lone surrogate cannot be encoded; it goes as what browsers make of it. */
const encode = (text: string): string => encodeURIComponent(text.toWellFormed())

/** By zod, with the schemas that the server itself uses. */
function fits(
	{ request }: RouteSchemas,
	path: Record<string, string>,
	query: readonly (readonly [string, string])[],
	headers: Record<string, string>,
	body: unknown,
): boolean {
	// A webhook takes anything, which is described by a schema of nothing.
	const accepts = (schema: z.ZodType | object | undefined, value: unknown): boolean =>
		schema === undefined || !('safeParse' in schema) || schema.safeParse(value).success
	const parameters: Record<string, string | string[]> = {}
	for (const [name, value] of query) {
		if (value === '') continue
		const before = parameters[name]
		parameters[name] = before === undefined ? value : [before, value].flat()
	}
	const parsed: unknown = body === undefined ? undefined : JSON.parse(JSON.stringify(body))
	return (
		accepts(request.params, path) &&
		accepts(request.query, parameters) &&
		accepts(request.headers, headers) &&
		(body === undefined ||
			(storageFaults(parsed).length === 0 &&
				accepts(request.body?.content['application/json']?.schema, parsed)))
	)
}
