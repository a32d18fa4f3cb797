import { expect, test } from 'vitest'
import {
	readInvoice,
	repairInvoice,
	sampleDocuments,
} from '../../../worker/workflows/document-processing/invoice.js'

test('an invoice in the right form is read as it stands', () => {
	const invoice = { number: '10042', currency: 'EUR', totalCents: 123_45 }
	expect(readInvoice('Invoice 10042\nTotal 123.45 EUR')).toEqual(invoice)
	expect(repairInvoice('Invoice 10042\nTotal 123.45 EUR')).toEqual(invoice)
})

test.each([
	['letters for digits', ' lnvoice lOO42 \n\n Total  l23,4S  EUR '],
	['other spacing', 'Invoice   10042\n\n\nTotal\t123.45   EUR\n'],
])('what a scanner did to it is refused, and repaired: %s', (_, text) => {
	expect(() => readInvoice(text)).toThrow('does not have the form')
	expect(repairInvoice(text)).toEqual({ number: '10042', currency: 'EUR', totalCents: 123_45 })
})

test.each(['', 'Dear customer,', 'Invoice x\nTotal y EUR', 'Invoice 1\nTotal 1.00'])(
	'%j is no invoice, however one looks at it',
	(text) => {
		expect(() => repairInvoice(text)).toThrow('does not have the form')
	},
)

test('of the samples one in seven is damaged, and every damaged one can be repaired to what it was', () => {
	const samples = sampleDocuments(1_000)
	const damaged = samples.filter(({ text }) => {
		try {
			readInvoice(text)
			return false
		} catch {
			return true
		}
	})
	expect(damaged).toHaveLength(142)
	samples.forEach(({ text }, position) => {
		expect(repairInvoice(text)).toEqual({
			number: String(10_000 + position),
			currency: ['EUR', 'USD', 'CHF'][position % 3],
			totalCents: ((position * 37) % 900) * 100 + ((position * 13) % 100),
		})
	})
})
