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
	readonly default?: unknown
	readonly minimum?: number
	readonly maximum?: number
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
nav ul { columns: 20rem; padding-left: 1.1rem }
summary { cursor: pointer }`

export function renderDocsPage(document: OpenApiDocument): string {
	const operations = Object.entries(
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
<nav>
<ul>
${operations.map(({ path, method, operation }) => `<li><a href="#${escape(operation.operationId)}"><code>${method} ${escape(path)}</code></a></li>`).join('\n')}
<li><a href="#problems">Problems</a></li>
<li><a href="#schemas">Schemas</a></li>
</ul>
</nav>
${tags
	.map(
		(tag) => `<h2>${escape(tag.name)}</h2>
${prose(tag.description)}
${operations
	.filter(({ operation }) => operation.tags.includes(tag.name))
	.map(({ path, method, operation }) => renderOperation(path, method, operation))
	.join('\n')}`,
	)
	.join('\n')}
<h2 id="problems">Problems</h2>
${Object.entries(PROBLEMS)
	.map(
		([code, { status, title, when }]) =>
			`<article id="${escape(code)}"><h3>${status} ${escape(code)}</h3><p>${escape(title)}. ${escape(when)}</p></article>`,
	)
	.join('\n')}
<h2 id="schemas">Schemas</h2>
${schemas.map(([name, schema]) => `<article id="schema-${escape(name)}"><h3>${escape(name)}</h3>${prose(schema.description)}${properties(schema)}</article>`).join('\n')}
</body>
</html>
`
}

function renderOperation(path: string, method: string, operation: Operation): string {
	return `<article id="${escape(operation.operationId)}">
<h3><span class="method">${method}</span> <code>${escape(path)}</code></h3>
<p>${escape(operation.summary)} <span class="soft">(${escape(operation.operationId)})</span></p>
${prose(operation.description)}
${renderParameters(operation.parameters ?? [])}
${Object.values(operation.requestBody?.content ?? {})
	.map(
		(media) =>
			`<h4>Body${operation.requestBody?.required === true ? '' : ' (optional)'}: ${typeOf(media.schema)}</h4>${examples(media)}`,
	)
	.join('\n')}
<h4>Answers</h4>
${Object.entries(operation.responses)
	.map(([status, { description, headers = {}, content = {} }]) => {
		const media = Object.values(content)[0]
		const headerList = Object.entries(headers).map(
			([name, { description: says }]) => `<li><code>${escape(name)}</code>: ${inline(says ?? '')}</li>`,
		)
		return `<details${status.startsWith('2') ? ' open' : ''}><summary><strong>${escape(status)}</strong> ${inline(description)} ${typeOf(media?.schema)}</summary>
${headerList.length > 0 ? `<ul>${headerList.join('')}</ul>` : ''}${media === undefined ? '' : examples(media)}</details>`
	})
	.join('\n')}
</article>`
}

function renderParameters(parameters: readonly Parameter[]): string {
	if (parameters.length === 0) return ''
	return `<h4>Parameters</h4><table>${parameters
		.map(
			({ name, in: place, required, schema, description }) =>
				`<tr><td><code>${escape(name)}</code><td>${escape(place)}${required === true ? ', required' : ''}<td>${typeOf(schema)}<td>${inline(description ?? schema?.description ?? '')}</tr>`,
		)
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
	const range = schema.minimum === undefined ? '' : ` ${schema.minimum}–${schema.maximum ?? ''}`
	const fallback = schema.default === undefined ? '' : `, default ${JSON.stringify(schema.default)}`
	return escape(
		`${[schema.type ?? 'any'].flat().join(' or ')}${schema.format === undefined ? '' : ` (${schema.format})`}${range}${fallback}`,
	)
}

function examples({ example, examples: several }: Media): string {
	const values = example === undefined ? Object.values(several ?? {}).map(({ value }) => value) : [example]
	return values.map((value) => `<pre>${escape(JSON.stringify(value, null, 2))}</pre>`).join('')
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
