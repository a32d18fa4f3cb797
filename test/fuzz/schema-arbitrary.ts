/** Values for a JSON schema of the OpenAPI document: mostly what it asks for, of the kind that causes trouble. */
import fc from 'fast-check'

export interface Schema {
	readonly $ref?: string
	readonly type?: string | readonly string[]
	readonly properties?: Readonly<Record<string, Schema>>
	readonly required?: readonly string[]
	readonly additionalProperties?: boolean | Schema
	readonly items?: Schema
	readonly enum?: readonly unknown[]
	readonly const?: unknown
	readonly anyOf?: readonly Schema[]
	readonly oneOf?: readonly Schema[]
	readonly allOf?: readonly Schema[]
	readonly pattern?: string
	readonly minLength?: number
	readonly maxLength?: number
	readonly minItems?: number
	readonly maxItems?: number
	readonly minimum?: number
	readonly maximum?: number
	readonly exclusiveMinimum?: number
}

/** What has broken programs before: in SQL, JSON, JavaScript objects, paths, formats, terminals. */
export const HOSTILE_TEXTS: readonly string[] = [
	"'; drop table flowcraft_statuses; --",
	'" or 1=1 --',
	"\\'); select pg_sleep(10); --",
	'$1',
	'$$',
	'{"$serialized":"x"}',
	'{a,b}',
	'NULL',
	'__proto__',
	'constructor',
	'prototype',
	'toString',
	'hasOwnProperty',
	'../../etc/passwd',
	'..%2f..%2f',
	'%00',
	'%s%n%x',
	'<script>alert(1)</script>',
	'\r\nX-Injected: yes',
	'\u001b[31m',
	'\u202egnp.exe',
	'\ufeff',
	'e\u0301',
	'\u{1f469}\u200d\u{1f680}',
	'\uffff',
	'ı',
	'-0',
	'1e999',
	'_outputs.only',
	'webhook:x',
	'undefined',
	'[object Object]',
	' ',
	'\t',
	'a'.repeat(256),
]

/** Text in which Postgres, JSON or HTTP find fault. */
export const FAULTY_TEXTS: readonly string[] = [
	'',
	'\u0000',
	'a\u0000b',
	'\ud800',
	'x\udc00',
	'a'.repeat(1_025),
	'a'.repeat(5_000),
]

const anyText = fc.oneof(
	{ weight: 3, arbitrary: fc.constantFrom(...HOSTILE_TEXTS) },
	{ weight: 2, arbitrary: fc.string({ unit: 'grapheme', minLength: 1, maxLength: 30 }) },
)

export const anyJson: fc.Arbitrary<unknown> = fc.oneof(
	fc.jsonValue({ maxDepth: 3 }),
	anyText,
	fc.dictionary(anyText, fc.oneof(fc.jsonValue({ maxDepth: 1 }), anyText), { maxKeys: 4 }),
)

/**
 * @param known texts that mean something in the system under test, by the name of the field or parameter
 * @param resolve looks a reference up
 */
export function arbitraryOf(
	schema: Schema,
	resolve: (reference: string) => Schema,
	known: (name: string) => readonly string[],
	name = '',
	depth = 0,
): fc.Arbitrary<unknown> {
	const of = (inner: Schema, innerName = name): fc.Arbitrary<unknown> =>
		arbitraryOf(inner, resolve, known, innerName, depth + 1)
	if (schema.$ref !== undefined) return of(resolve(schema.$ref))
	if (depth > 12) return fc.constant(null)
	if (schema.const !== undefined) return fc.constant(schema.const)
	if (schema.enum !== undefined) return fc.constantFrom(...schema.enum)
	const several = schema.anyOf ?? schema.oneOf
	if (several !== undefined) return fc.oneof(...several.map((one) => of(one)))
	if (schema.allOf !== undefined)
		return fc
			.tuple(...schema.allOf.map((one) => of(one)))
			.map((parts) => Object.assign({}, ...parts) as unknown)
	const types = [schema.type ?? []].flat()
	if (types.length === 0) return anyJson
	return fc.oneof(...types.map((type) => ofType(type, schema, of, known(name))))
}

function ofType(
	type: string,
	schema: Schema,
	of: (inner: Schema, name?: string) => fc.Arbitrary<unknown>,
	meaningful: readonly string[],
): fc.Arbitrary<unknown> {
	switch (type) {
		case 'string':
			return textOf(schema, meaningful)
		case 'integer':
		case 'number': {
			const min = Math.max(schema.minimum ?? schema.exclusiveMinimum ?? 0, -(2 ** 31))
			const max = Math.min(schema.maximum ?? 2 ** 31 - 1, 2 ** 31 - 1)
			return fc.oneof(fc.integer({ min, max }), fc.constantFrom(min, max))
		}
		case 'boolean':
			return fc.boolean()
		case 'null':
			return fc.constant(null)
		case 'array':
			return fc.array(of(schema.items ?? {}), {
				minLength: schema.minItems ?? 0,
				maxLength: Math.min(schema.maxItems ?? 4, 4),
			})
		default:
			return objectOf(schema, of)
	}
}

function textOf(schema: Schema, meaningful: readonly string[]): fc.Arbitrary<string> {
	const fits = (text: string): boolean =>
		text.length >= (schema.minLength ?? 0) && text.length <= (schema.maxLength ?? 100_000)
	const candidates = fc.oneof(
		...(meaningful.length === 0 ? [] : [{ weight: 3, arbitrary: fc.constantFrom(...meaningful) }]),
		// Text of a format that only means something if it is one of the above.
		...(schema.pattern === undefined
			? [{ weight: 2, arbitrary: anyText }]
			: [{ weight: 1, arbitrary: fc.stringMatching(new RegExp(schema.pattern)) }]),
	)
	return candidates.filter(fits)
}

function objectOf(
	schema: Schema,
	of: (inner: Schema, name?: string) => fc.Arbitrary<unknown>,
): fc.Arbitrary<unknown> {
	const properties = Object.entries(schema.properties ?? {})
	if (properties.length === 0) {
		const values =
			typeof schema.additionalProperties === 'object' ? of(schema.additionalProperties) : anyJson
		return fc.dictionary(anyText, values, { maxKeys: 4 })
	}
	const fields = Object.fromEntries(properties.map(([key, property]) => [key, of(property, key)]))
	return fc.record(fields, { requiredKeys: (schema.required ?? []) as never[] })
}
