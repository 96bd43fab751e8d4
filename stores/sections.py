"""What every section of the settings is made of."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]

MOST_DAYS = 36_500
_A_DAY = {"days": 1.0, "hours": 24.0, "minutes": 1440.0, "seconds": 86_400.0, "s": 86_400.0, "ms": 86_400_000.0}


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*")
    @classmethod
    def _a_duration_that_ends(cls, value: Any, info: ValidationInfo) -> Any:
        """A key that ends in its unit is a duration: at most 100 years, since dates reach no further."""
        unit = (info.field_name or "").rpartition("_")[2]
        if unit in _A_DAY and isinstance(value, int | float) and value > (most := MOST_DAYS * _A_DAY[unit]):
            raise ValueError(f"at most {most:,.0f} {unit}, a hundred years")
        return value
