/** The OpenAPI document as a page for people: one string of HTML, no script, no network, everything escaped. */
import type { OpenApiDocument } from './openapi.js'
import { PROBLEMS } from './problem.js'

/** As much of JSON Schema as our document uses. */
interface Schema {
	readonly $ref?: string
	readonly type?: string | readonly string[]
	readonly description?: string
	readonly properties?: Readonly<Record<string, Schema>>
	readonly required?: readonly string[]
	readonly items?: Schema
	readonly enum?: readonly unknown[]
	readonly anyOf?: readonly Schema[]
	readonly format?: string
	readonly const?: unknown
	readonly default?: unknown
	readonly example?: unknown
	readonly minimum?: number
	readonly maximum?: number
	readonly maxLength?: number
	readonly additionalProperties?: Schema | boolean
}

interface Media {
	readonly schema?: Schema
	readonly example?: unknown
	readonly examples?: Readonly<Record<string, { readonly value: unknown }>>
}

interface Parameter {
	readonly name: string
	readonly in: string
	readonly required?: boolean
	readonly description?: string
	readonly schema?: Schema
}

interface Operation {
	readonly operationId: string
	readonly tags: readonly string[]
	readonly summary: string
	readonly description?: string
	readonly parameters?: readonly Parameter[]
	readonly requestBody?: { readonly content: Readonly<Record<string, Media>>; readonly required?: boolean }
	readonly security?: readonly object[]
	readonly responses: Readonly<
		Record<
			string,
			{
				readonly description: string
				readonly headers?: Readonly<Record<string, Schema>>
				readonly content?: Readonly<Record<string, Media>>
			}
		>
	>
}

interface Entry {
	readonly path: string
	readonly method: string
	readonly operation: Operation
}

/** How the errors of all operations come. */
const PROBLEM_TYPE = 'application/problem+json'

const STYLE = `
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 18%, transparent); --soft: color-mix(in srgb, currentColor 6%, transparent) }
* { box-sizing: border-box }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 6rem }
h1 { margin-bottom: 0 } h2 { margin-top: 3rem; border-bottom: 1px solid var(--line) } h4 { margin: 1.2rem 0 .3rem }
article { border: 1px solid var(--line); border-radius: .5rem; padding: .2rem 1rem 1rem; margin: 1rem 0; scroll-margin-top: 1rem }
article:target { outline: 2px solid }
code, pre { font: .88em/1.45 ui-monospace, monospace } code { background: var(--soft); padding: .1em .3em; border-radius: .25em }
pre { background: var(--soft); padding: .7rem; border-radius: .4rem; overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-size: .94em } th, td { text-align: left; vertical-align: top; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line) }
.method { display: inline-block; min-width: 3.4em; font-weight: 700 } .soft { opacity: .7 }
th { font-weight: 600; opacity: .7 } .errors { line-height: 2 } .errors a { white-space: nowrap }
td code { overflow-wrap: anywhere } nav table { table-layout: fixed } nav td:first-child { width: 55% }`

export function renderDocsPage(document: OpenApiDocument): string {
	const operations: Entry[] = Object.entries(
		(document.paths ?? {}) as Record<string, Record<string, Operation>>,
	).flatMap(([path, methods]) =>
		Object.entries(methods).map(([method, operation]) => ({
			path,
			method: method.toUpperCase(),
			operation,
		})),
	)
	const schemas = Object.entries((document.components?.schemas ?? {}) as Record<string, Schema>)
	const tags = document.tags ?? []
	return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escape(document.info.title)} API</title>
<style>${STYLE}</style>
</head>
<body>
<h1>${escape(document.info.title)} API</h1>
<p class="soft">Version ${escape(document.info.version)} · <a href="openapi.json">openapi.json</a></p>
${prose(document.info.description)}
<p>Keys and tokens are sent as <code>Authorization: Bearer …</code>, keys also as <code>X-API-Key: …</code>. Examples
below write <code>$URL</code> for where the server is and <code>$KEY</code> for a key.</p>
<nav>
${tags
	.map(
		({ name }) => `<h4>${escape(name)}</h4>
<table>${inTag(operations, name)
			.map(
				({ path, method, operation }) =>
					`<tr><td><a href="#${escape(operation.operationId)}"><code>${method} ${escape(path)}</code></a><td>${escape(operation.summary)}</tr>`,
			)
			.join('\n')}</table>`,
	)
	.join('\n')}
<p><a href="#problems">Problems</a> · <a href="#schemas">Schemas</a></p>
</nav>
${tags
	.map(
		(tag) => `<h2>${escape(tag.name)}</h2>
${prose(tag.description)}
${inTag(operations, tag.name).map(renderOperation).join('\n')}`,
	)
	.join('\n')}
<h2 id="problems">Problems</h2>
<p>Every error comes as <code>${PROBLEM_TYPE}</code>, a <a href="#schema-Problem">Problem</a>; its <code>type</code> leads here.</p>
${Object.entries(PROBLEMS)
	.map(
		([code, { status, title, when }]) =>
			`<article id="${escape(code)}"><h3>${status} ${escape(code)}</h3><p>${escape(title)}. ${inline(when)}</p>${problemExampleIn(operations, code)}</article>`,
	)
	.join('\n')}
<h2 id="schemas">Schemas</h2>
${schemas.map(([name, schema]) => `<article id="schema-${escape(name)}"><h3>${escape(name)}</h3>${prose(schema.description)}${properties(schema)}</article>`).join('\n')}
</body>
</html>
`
}

const inTag = (operations: readonly Entry[], tag: string): Entry[] =>
	operations.filter(({ operation }) => operation.tags.includes(tag))

function renderOperation(entry: Entry): string {
	const { path, method, operation } = entry
	const bodies = Object.entries(operation.requestBody?.content ?? {})
	const answers = Object.entries(operation.responses)
	const isProblem = (content: object = {}): boolean => PROBLEM_TYPE in content
	const codes = answers.flatMap(([status, { content }]) =>
		Object.keys(content?.[PROBLEM_TYPE]?.examples ?? {}).map((code) => ({ status, code })),
	)
	return `<article id="${escape(operation.operationId)}">
<h3><span class="method">${method}</span> <code>${escape(path)}</code></h3>
<p><strong>${escape(operation.summary)}</strong> <span class="soft">(${escape(operation.operationId)})</span></p>
${prose(operation.description)}
${renderParameters(operation.parameters ?? [])}
${bodies
	.map(
		([type, media]) =>
			`<h4>Body${operation.requestBody?.required === true ? '' : ' (optional)'}: ${escape(type)} ${typeOf(media.schema)}</h4>${examples(type, media)}`,
	)
	.join('\n')}
<h4>Example</h4>
<pre>${escape(curl(entry))}</pre>
<h4>Answers</h4>
${answers
	.filter(([, { content }]) => !isProblem(content))
	.map(([status, { description, headers = {}, content = {} }]) => {
		const [type = '', media] = Object.entries(content)[0] ?? []
		const headerList = Object.entries(headers).map(
			([name, { description: says }]) => `<li><code>${escape(name)}</code>: ${inline(says ?? '')}</li>`,
		)
		return `<p><strong>${escape(status)}</strong> ${inline(description)} ${escape(type)} ${typeOf(media?.schema)}</p>
${headerList.length > 0 ? `<ul>${headerList.join('')}</ul>` : ''}${media === undefined ? '' : examples(type, media)}`
	})
	.join('\n')}
<p class="errors"><strong>Errors</strong> ${codes.map(({ status, code }) => `<a href="#${escape(code)}">${escape(status)} ${escape(code)}</a>`).join(' · ')}</p>
</article>`
}

/** The operation as a command, with the examples of what it takes. */
function curl({ path, method, operation }: Entry): string {
	const { parameters = [], requestBody, security = [] } = operation
	const required = (place: string): Parameter[] => parameters.filter((parameter) => parameter.in === place)
	const url = required('path').reduce(
		(text, { name, schema }) => text.replace(`{${name}}`, encodeURIComponent(String(schema?.example))),
		path,
	)
	const [type, media] = Object.entries(requestBody?.content ?? {})[0] ?? []
	const body = media?.example
	const streams = 'text/event-stream' in (operation.responses['200']?.content ?? {})
	return [
		`curl${streams ? ' -N' : ''}${method === 'GET' ? '' : ` -X ${method}`} "$URL${url}"`,
		...(security.length === 0 ? [] : ['-H "Authorization: Bearer $KEY"']),
		...(body === undefined
			? []
			: [`-H 'Content-Type: ${type}'`, `-d '${JSON.stringify(body).replaceAll("'", `'\\''`)}'`]),
	].join(' \\\n  ')
}

/** The first example of a problem that an operation gives. */
function problemExampleIn(operations: readonly Entry[], code: string): string {
	const example = operations
		.flatMap(({ operation }) => Object.values(operation.responses))
		.map(({ content }) => content?.[PROBLEM_TYPE]?.examples?.[code])
		.find((found) => found !== undefined)
	return example === undefined ? '' : examples(PROBLEM_TYPE, { example: example.value })
}

function renderParameters(parameters: readonly Parameter[]): string {
	if (parameters.length === 0) return ''
	return `<h4>Parameters</h4><table><tr><th>Name<th>In<th>Type<th>Example<th></tr>${parameters
		.map(({ name, in: place, required, schema, description }) => {
			const example = schema?.example
			const shown =
				example === undefined
					? ''
					: `<code>${escape(typeof example === 'string' ? example : JSON.stringify(example))}</code>`
			return `<tr><td><code>${escape(name)}</code><td>${escape(place)}${required === true ? ', required' : ''}<td>${typeOf(schema)}<td>${shown}<td>${inline(description ?? schema?.description ?? '')}</tr>`
		})
		.join('')}</table>`
}

function properties(schema: Schema): string {
	const rows = Object.entries(schema.properties ?? {}).map(([name, property]) => {
		const required = schema.required?.includes(name) === true ? '' : ' <span class="soft">optional</span>'
		const nested = property.properties ?? property.items?.properties
		return `<tr><td><code>${escape(name)}</code>${required}<td>${typeOf(property)}<td>${inline(property.description ?? '')}${nested === undefined ? '' : properties(property.properties === undefined ? (property.items ?? {}) : property)}</tr>`
	})
	return rows.length === 0 ? '' : `<table>${rows.join('')}</table>`
}

/** A schema in a few words, as HTML. */
function typeOf(schema: Schema | undefined): string {
	if (schema === undefined) return ''
	if (schema.$ref !== undefined) {
		const name = schema.$ref.split('/').at(-1) ?? ''
		return `<a href="#schema-${escape(name)}">${escape(name)}</a>`
	}
	if (schema.anyOf !== undefined) return schema.anyOf.map(typeOf).join(' or ')
	if (schema.items !== undefined) return `list of ${typeOf(schema.items)}`
	if (schema.enum !== undefined)
		return schema.enum.map((value) => `<code>${escape(String(value))}</code>`).join(' ')
	if (schema.const !== undefined) return `<code>${escape(JSON.stringify(schema.const))}</code>`
	if (typeof schema.additionalProperties === 'object' && schema.properties === undefined)
		return `object of ${typeOf(schema.additionalProperties)}`
	const longest = schema.maxLength === undefined ? '' : `, ${schema.maxLength} characters at most`
	const range = schema.minimum === undefined ? '' : ` ${schema.minimum}–${schema.maximum ?? ''}`
	const fallback = schema.default === undefined ? '' : `, default ${JSON.stringify(schema.default)}`
	return escape(
		`${[schema.type ?? 'any'].flat().join(' or ')}${schema.format === undefined ? '' : ` (${schema.format})`}${range}${longest}${fallback}`,
	)
}

/** JSON laid out, anything else as it is sent. */
function examples(type: string, { example, examples: several }: Media): string {
	const values = example === undefined ? Object.values(several ?? {}).map(({ value }) => value) : [example]
	const isText = !type.includes('json')
	return values
		.map((value) => `<pre>${escape(isText ? String(value) : JSON.stringify(value, null, 2))}</pre>`)
		.join('')
}

const prose = (text = ''): string =>
	text
		.split('\n\n')
		.filter((paragraph) => paragraph !== '')
		.map((paragraph) => `<p>${inline(paragraph)}</p>`)
		.join('\n')

/** Escaped, with `code` between backticks. */
const inline = (text: string): string => escape(text).replaceAll(/`([^`]+)`/g, '<code>$1</code>')

const ENTITIES: Readonly<Record<string, string>> = {
	'&': '&amp;',
	'<': '&lt;',
	'>': '&gt;',
	'"': '&quot;',
	"'": '&#39;',
}

const escape = (text: string): string => text.replaceAll(/[&<>"']/g, (char) => ENTITIES[char] ?? char)
