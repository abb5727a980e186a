"""Makes greenedge/energy/data/intensity.csv from electricity mixes (Our World in Data columns, as JSON by ISO code).

    python benchmarks/energy_intensity.py MIXES.json > greenedge/energy/data/intensity.csv

Each entry has country_name, year, carbon_intensity (g/kWh) and TWh by source. The range is the same mix with the lowest
and the highest life-cycle emission found for each technology, widened to hold the published value.
"""

from __future__ import annotations

import json
import sys

# g CO2e/kWh, lowest and highest. Coal, gas, hydro, nuclear, wind, solar PV: UNECE, Life Cycle Assessment of Electricity
# Generation Options (2021), summary. Oil, biomass and others: IPCC SRREN (2011) Annex II, Table A.II.4, minimum to
# maximum of oil; biomass IPCC AR5 WG3 (2014) Annex III, Table A.III.2.
RANGES = {
    "coal_TWh": (751, 1095),
    "gas_TWh": (403, 513),
    "hydroelectricity_TWh": (6, 147),
    "nuclear_TWh": (5.1, 6.4),
    "wind_TWh": (7.8, 23),
    "solar_TWh": (8, 83),
    "oil_TWh": (510, 1170),
    "biofuel_TWh": (130, 420),
}
COUNTRIES = (
    "ARG AUS AUT BEL BGR BRA CAN CHE CHL CHN COL CZE DEU DNK EGY ESP EST FIN FRA GBR GRC HUN IDN IND IRL ISL "
    "ISR ITA JPN KOR LTU LVA MEX MYS NLD NOR NZL PHL POL PRT ROU SGP SVK SVN SWE THA TUR TWN UKR USA VNM "
    "ZAF"
).split()
SOURCE = "Our World in Data (Ember; Energy Institute)"


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        mixes = json.load(file)
    print("iso,country,g_per_kwh,low,high,year,source")
    for iso in COUNTRIES:
        mix = mixes[iso]
        value = mix["carbon_intensity"]
        total = sum(mix[source] for source in RANGES)
        low, high = (sum(mix[source] * RANGES[source][end] for source in RANGES) / total for end in (0, 1))
        fields = (iso, mix["country_name"], f"{value:.0f}", f"{min(low, value):.0f}", f"{max(high, value):.0f}")
        print(",".join((*fields, str(mix["year"]), SOURCE)))


if __name__ == "__main__":
    main()
